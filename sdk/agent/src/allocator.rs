//! How a NAT chooses ports, told from the ports it gave in a row.

use meetpoint_proto::Allocator;

/// Ports from which something can be told: fewer may look like anything.
const MIN_PORTS: usize = 4;
/// The largest distance between two ports in a row that still makes a sequence: NATs that skip ports skip few.
const MAX_DELTA: u16 = 16;
/// Ports that others behind the same NAT may take between two of ours.
const MAX_STRANGERS: u16 = 16;
/// The widest range that counts as a block. Carriers give 64 to 4,096 ports to a subscriber; chance puts eight
/// ports of all into such a range once in a hundred million times.
const MAX_BLOCK: u16 = 4_096;

/// What these ports, in the order in which they were given, tell. `None`: too few.
pub(crate) fn of(ports: &[u16]) -> Option<Allocator> {
    let (&newest, true) = (ports.last()?, ports.len() >= MIN_PORTS) else { return None };
    if let Some(delta) = step(ports) {
        return Some(Allocator::Sequential { delta, newest });
    }
    let (first, last) = (*ports.iter().min()?, *ports.iter().max()?);
    if last - first < MAX_BLOCK {
        return Some(Allocator::Block { first, last });
    }
    Some(Allocator::Random)
}

/// The distance that three quarters of all neighbours are apart, or a small multiple of it. The rest may be a
/// sequence that starts over, or packets that changed places.
fn step(ports: &[u16]) -> Option<u16> {
    let steps: Vec<u16> = ports.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    let delta = *steps.iter().filter(|step| (1..=MAX_DELTA).contains(*step)).min()?;
    let fits = |step: &&u16| {
        **step > 0 && step.is_multiple_of(delta) && **step <= delta.saturating_mul(MAX_STRANGERS)
    };
    (steps.iter().filter(fits).count() * 4 >= steps.len() * 3).then_some(delta)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocators_are_told_apart() {
        use Allocator::{Block, Random, Sequential};
        let cases: [(&[u16], Option<Allocator>); 9] = [
            (&[], None),
            (&[5, 6, 7], None),
            (&[5, 6, 7, 8], Some(Sequential { delta: 1, newest: 8 })),
            (&[50, 52, 54, 60, 62], Some(Sequential { delta: 2, newest: 62 })),
            // Others take ports too, and the pool starts over.
            (
                &[65_533, 65_535, 1_024, 1_025, 1_026, 1_030, 1_031],
                Some(Sequential { delta: 1, newest: 1_031 }),
            ),
            (&[40_900, 40_017, 40_502, 40_333, 40_801, 40_500], Some(Block { first: 40_017, last: 40_900 })),
            (&[900, 40_017, 20_502, 60_333], Some(Random)),
            // A port that serves several destinations is no sequence.
            (&[7_000, 7_000, 7_000, 7_000], Some(Block { first: 7_000, last: 7_000 })),
            (&[0, 65_535, 0, 65_535], Some(Random)),
        ];
        for (ports, expect) in cases {
            assert_eq!(of(ports), expect, "{ports:?}");
        }
    }
}
