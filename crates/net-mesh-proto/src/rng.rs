//! Randomness handed down: one seed per node, a labelled fork per machine.
//!
//! Forks are independent streams, so a new draw in one machine never changes what another draws,
//! and a run can be repeated from its seed. The generator is ChaCha12: outputs are unpredictable
//! to anyone without the seed, which transaction ids and tokens depend on.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};
use sha2::{Digest, Sha256};

/// A deterministic stream of unpredictable numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    seed: [u8; 32],
    stream: ChaCha12Rng,
}

impl Rng {
    /// The stream that `seed` stands for.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { seed, stream: ChaCha12Rng::from_seed(seed) }
    }

    /// A stream for tests and simulations, from a small number.
    #[must_use]
    pub fn from_u64(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self::from_seed(bytes)
    }

    /// An independent stream named `label`. Draws from `self` do not change it.
    #[must_use]
    pub fn fork(&self, label: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.seed);
        hash.update(label.as_bytes());
        Self::from_seed(hash.finalize().into())
    }

    /// A uniformly random 64-bit number.
    pub fn u64(&mut self) -> u64 {
        self.stream.next_u64()
    }

    /// A uniformly random 96-bit number, as STUN transaction ids are.
    pub fn u96(&mut self) -> u128 {
        u128::from(self.stream.next_u64()) << 32 | u128::from(self.stream.next_u32())
    }

    /// A number in `0..bound`, or 0 where `bound` is 0.
    ///
    /// The bias of the multiply-shift reduction is below `bound / 2^64`.
    pub fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.u64()) * u128::from(bound)) >> 64).unwrap_or(0)
    }

    /// A number in `[0, 1)`.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    pub fn unit(&mut self) -> f64 {
        (self.u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }
}
