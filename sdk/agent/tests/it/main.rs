//! Black-box tests of the agent: inputs and times in, outputs out.

mod arbitrary;
mod clock;
mod cluster;
mod control;
mod guess;
mod mapped;
mod meet;
mod membership;
mod relay;
mod rig;
mod roam;
mod servers;
