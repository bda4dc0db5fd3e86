//! Seeded changes of known inputs: the poor man's libFuzzer, for runs that have to be the same on each machine.

/// SplitMix64: quick, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same throws.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `count`, or 0 if that is 0.
    pub fn below(&mut self, count: usize) -> usize {
        (self.throw() % count.max(1) as u64) as usize
    }
}

/// Changes an input: one to eight times bytes are set, flipped, cut out, doubled, or replaced by pieces of another
/// input or by one of the words.
#[must_use]
pub fn mutate(dice: &mut Dice, seed: &[u8], other: &[u8], words: &[&[u8]], max_len: usize) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(8) {
        let at = dice.below(bytes.len() + 1);
        let end = (at + 1 + dice.below(16)).min(bytes.len());
        match dice.below(8) {
            0 => bytes.insert(at, dice.throw() as u8),
            1 if at < end => bytes[at] = dice.throw() as u8,
            2 if at < end => bytes[at] ^= 1 << dice.below(8),
            3 if at < end => drop(bytes.drain(at..end)),
            4 if at < end => {
                let doubled = bytes[at..end].to_vec();
                bytes.splice(at..at, doubled);
            }
            5 if !other.is_empty() => {
                let from = dice.below(other.len());
                let to = (from + 1 + dice.below(64)).min(other.len());
                bytes.splice(at..end.max(at), other[from..to].iter().copied());
            }
            6 if !words.is_empty() => {
                let word = words[dice.below(words.len())];
                let end = if dice.below(2) == 0 { at } else { (at + word.len()).min(bytes.len()) };
                bytes.splice(at..end, word.iter().copied());
            }
            _ => bytes.extend((0..dice.below(8)).map(|_| dice.throw() as u8).collect::<Vec<_>>()),
        }
    }
    bytes.truncate(max_len);
    bytes
}
