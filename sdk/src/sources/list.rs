//! Servers that are known at the start.

use super::{FoundSeed, SEEDS_VARIABLE, Search, SeedSource, Seeds, SourceError, text};

/// A fixed list.
#[derive(Debug, Clone, Default)]
pub struct FixedSeeds(pub Vec<FoundSeed>);

impl SeedSource for FixedSeeds {
    fn label(&self) -> String {
        "a list".to_owned()
    }

    fn search<'a>(&'a self, seeds: &'a Seeds) -> Search<'a> {
        Box::pin(async move {
            for seed in &self.0 {
                seeds.tell(seed.clone()).await;
            }
            Ok(())
        })
    }
}

/// The environment's variable `MEETPOINT_SEEDS`: servers as `NAME@HOST:PORT` or URLs, with commas between them. Without
/// the variable it finds nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Environment;

impl SeedSource for Environment {
    fn label(&self) -> String {
        SEEDS_VARIABLE.to_owned()
    }

    fn search<'a>(&'a self, seeds: &'a Seeds) -> Search<'a> {
        Box::pin(async move {
            let Some(value) = std::env::var_os(SEEDS_VARIABLE) else { return Ok(()) };
            let value = value.to_str().ok_or_else(|| SourceError::new("it is not text"))?;
            for seed in text::lines(&value.replace(',', "\n")).map_err(SourceError::new)? {
                seeds.tell(seed).await;
            }
            Ok(())
        })
    }
}
