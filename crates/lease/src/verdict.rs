//! Whether a claim may be superseded. Performs no I/O.

use std::time::Duration;

use crate::claim::{Claim, ClaimState, Claimant};

/// What somebody who wants to write knows besides the newest claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// A person said that the former holder is gone for good.
    pub forced: bool,
    /// We hold the lock that every writer of this host takes, so no other of this host lives.
    pub alone_on_host: bool,
    /// How long the heartbeat of the holder's host has not moved, on our own clock; `None` if
    /// that is not known.
    pub silent_for: Option<Duration>,
}

/// Why a claim may be superseded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// There never was one.
    First,
    /// Its holder was done.
    Released,
    /// It is our own host's, from before its last start.
    EarlierBoot,
    /// It is our own host's, and no other writer of it lives.
    Alone,
    /// Its holder promised to stop by now.
    SelfFenced,
    /// A person said so.
    Forced,
}

/// What to do about a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Claim the next generation.
    Supersede(Ground),
    /// Its holder may be writing. Ask again after this time, if it promised to stop; without a
    /// promise only the holder or a person can help.
    Wait {
        /// How long at least.
        again_after: Option<Duration>,
    },
}

/// Decides whether `claimant` may write the claim that comes after `newest`.
///
/// A wrong answer costs the former holder its machine, not its data: see the crate's docs.
#[must_use]
pub fn verdict(newest: Option<&Claim>, claimant: &Claimant, evidence: &Evidence) -> Verdict {
    let Some(newest) = newest else { return Verdict::Supersede(Ground::First) };
    if newest.state == ClaimState::Released {
        return Verdict::Supersede(Ground::Released);
    }
    if newest.claimant.host == claimant.host {
        if newest.claimant.host_boot != claimant.host_boot {
            return Verdict::Supersede(Ground::EarlierBoot);
        }
        if evidence.alone_on_host {
            return Verdict::Supersede(Ground::Alone);
        }
    }
    if evidence.forced {
        return Verdict::Supersede(Ground::Forced);
    }
    // Twice: the two clocks may differ in speed, and the holder looks at its own only now and
    // then.
    let Some(patience) = newest.self_fence.map(|promise| promise.saturating_mul(2)) else {
        return Verdict::Wait { again_after: None };
    };
    let silent_for = evidence.silent_for.unwrap_or_default();
    match patience.checked_sub(silent_for) {
        None | Some(Duration::ZERO) => Verdict::Supersede(Ground::SelfFenced),
        Some(rest) => Verdict::Wait { again_after: Some(rest) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sprite_types::{Generation, Timestamp};

    fn claimant(host: &str, boot: &str) -> Claimant {
        Claimant { host: host.parse().unwrap(), host_boot: boot.to_owned() }
    }

    fn ours() -> Claimant {
        claimant("host-aaaaaaaaaa", "two")
    }

    fn held(by: Claimant, self_fence_s: Option<u64>) -> Claim {
        Claim {
            generation: Generation(3),
            state: ClaimState::Held,
            claimant: by,
            at: Timestamp::from_micros(0),
            self_fence: self_fence_s.map(Duration::from_secs),
            nonce: 1,
        }
    }

    fn judge(newest: &Claim, evidence: Evidence) -> Verdict {
        verdict(Some(newest), &ours(), &evidence)
    }

    #[test]
    fn nobodys_volume_is_anybodys() {
        let evidence = Evidence::default();
        assert_eq!(verdict(None, &ours(), &evidence), Verdict::Supersede(Ground::First));
        let released =
            Claim { state: ClaimState::Released, ..held(claimant("host-bbbbbbbbbb", "x"), None) };
        assert_eq!(judge(&released, evidence), Verdict::Supersede(Ground::Released));
    }

    #[test]
    fn our_own_earlier_life_is_no_obstacle_but_a_living_sibling_is() {
        let earlier = held(claimant("host-aaaaaaaaaa", "one"), None);
        assert_eq!(judge(&earlier, Evidence::default()), Verdict::Supersede(Ground::EarlierBoot));
        let sibling = held(ours(), None);
        assert_eq!(judge(&sibling, Evidence::default()), Verdict::Wait { again_after: None });
        let alone = Evidence { alone_on_host: true, ..Evidence::default() };
        assert_eq!(judge(&sibling, alone), Verdict::Supersede(Ground::Alone));
    }

    /// The local lock says nothing about another host.
    #[test]
    fn a_holder_without_a_promise_gives_way_only_to_a_person() {
        let other = held(claimant("host-bbbbbbbbbb", "x"), None);
        let long = Some(Duration::from_secs(1_000_000));
        let evidence = Evidence { alone_on_host: true, silent_for: long, forced: false };
        assert_eq!(judge(&other, evidence), Verdict::Wait { again_after: None });
        let forced = Evidence { forced: true, ..evidence };
        assert_eq!(judge(&other, forced), Verdict::Supersede(Ground::Forced));
    }

    #[test]
    fn a_promise_counts_after_twice_its_time_of_silence() {
        let other = held(claimant("host-bbbbbbbbbb", "x"), Some(30));
        let silent = |seconds| Evidence {
            silent_for: Some(Duration::from_secs(seconds)),
            ..Evidence::default()
        };
        let wait = |seconds| Verdict::Wait { again_after: Some(Duration::from_secs(seconds)) };
        assert_eq!(judge(&other, Evidence::default()), wait(60));
        assert_eq!(judge(&other, silent(0)), wait(60));
        assert_eq!(judge(&other, silent(59)), wait(1));
        assert_eq!(judge(&other, silent(60)), Verdict::Supersede(Ground::SelfFenced));
        assert_eq!(judge(&other, silent(61)), Verdict::Supersede(Ground::SelfFenced));
    }
}
