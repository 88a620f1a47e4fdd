//! Decides what happens next in a sprite's life; does none of it.
//!
//! [`Phase::step`] takes what just happened and returns the next phase and the effect to start.
//! The sprite's actor owns the phase, runs effects, and feeds outcomes back as events.
//!
//! # Invariants
//! - At most one effect is in flight: effects are asked for only in phases that wait for
//!   nothing, or by the outcome of the one before.
//! - A destroy is never forgotten, whatever comes after it.

/// Where a sprite is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No machine; the disk only.
    Cold,
    /// A machine is being made; `then` is what is wanted once it is there.
    Booting { then: Then },
    /// The machine answers.
    Running,
    /// The machine is being stopped; `then` is what is wanted once it is gone.
    Stopping { then: Then },
    /// The last boot failed, or the machine ended too often. The next request tries again.
    Failed,
    /// Machine and disk are being removed.
    Destroying,
    /// Nothing is left.
    Gone,
}

/// What is wanted after the effect that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing more.
    Stay,
    /// A running machine.
    Boot,
    /// No machine.
    Stop,
    /// No sprite.
    Destroy,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody needs the machine.
    Wake,
    /// Somebody wants a fresh machine.
    Restart,
    /// Somebody wants the machine away.
    Stop,
    /// Somebody wants the sprite away.
    Destroy,
    /// The boot worked.
    Booted,
    /// The boot did not work.
    BootFailed,
    /// The machine ended by itself; `again` if it has not done so too often.
    Ended { again: bool },
    /// The machine was stopped.
    Stopped,
    /// Everything was removed.
    Destroyed,
}

/// What to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Clean up after an earlier machine, if there was one, and make a new one.
    Boot,
    /// Stop the machine in order.
    Stop,
    /// Stop the machine, if there is one, at once, and remove the disk.
    Destroy,
}

impl Phase {
    /// Returns the next phase and the effect it asks for. Performs no I/O.
    #[must_use]
    pub fn step(self, event: Event) -> (Self, Option<Effect>) {
        use Phase::{Booting, Cold, Destroying, Failed, Gone, Running, Stopping};
        match (self, event) {
            (Cold | Failed, Event::Wake | Event::Restart) => {
                (Booting { then: Then::Stay }, Some(Effect::Boot))
            }
            (Cold | Failed | Running, Event::Destroy) => (Destroying, Some(Effect::Destroy)),

            (Booting { then }, Event::Booted) => match then {
                Then::Stay | Then::Boot => (Running, None),
                Then::Stop => (Stopping { then: Then::Stay }, Some(Effect::Stop)),
                Then::Destroy => (Destroying, Some(Effect::Destroy)),
            },
            (Booting { then: Then::Destroy }, Event::BootFailed) => {
                (Destroying, Some(Effect::Destroy))
            }
            (Booting { .. }, Event::BootFailed) => (Failed, None),
            (Booting { .. }, Event::Destroy) => (Booting { then: Then::Destroy }, None),
            (Booting { then: Then::Stay | Then::Boot | Then::Stop }, Event::Stop) => {
                (Booting { then: Then::Stop }, None)
            }
            (Booting { then: Then::Stop }, Event::Wake | Event::Restart) => {
                (Booting { then: Then::Stay }, None)
            }

            (Running, Event::Ended { again: true }) => {
                (Booting { then: Then::Stay }, Some(Effect::Boot))
            }
            (Running, Event::Ended { again: false }) => (Failed, None),
            (Running, Event::Stop) => (Stopping { then: Then::Stay }, Some(Effect::Stop)),
            (Running, Event::Restart) => (Stopping { then: Then::Boot }, Some(Effect::Stop)),

            (Stopping { then }, Event::Stopped) => match then {
                Then::Stay | Then::Stop => (Cold, None),
                Then::Boot => (Booting { then: Then::Stay }, Some(Effect::Boot)),
                Then::Destroy => (Destroying, Some(Effect::Destroy)),
            },
            (Stopping { .. }, Event::Destroy) => (Stopping { then: Then::Destroy }, None),
            (Stopping { then: Then::Stay | Then::Stop }, Event::Wake | Event::Restart) => {
                (Stopping { then: Then::Boot }, None)
            }
            (Stopping { then: Then::Boot }, Event::Stop) => (Stopping { then: Then::Stay }, None),

            (Destroying, Event::Destroyed) => (Gone, None),
            // Late or repeated: the world moved on before this event arrived.
            (phase, _) => (phase, None),
        }
    }

    /// Returns the public API's word for the phase. `running` and `warm` mean "answers soon".
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopping { .. } => "warm",
            Self::Cold | Self::Booting { .. } | Self::Failed | Self::Destroying | Self::Gone => {
                "cold"
            }
        }
    }

    /// Tells whether the sprite takes room in memory, now or soon.
    #[must_use]
    pub const fn occupies_memory(self) -> bool {
        matches!(self, Self::Booting { .. } | Self::Running | Self::Stopping { .. })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(phase: Phase, events: &[Event]) -> (Phase, Vec<Effect>) {
        events.iter().fold((phase, Vec::new()), |(phase, mut effects), &event| {
            let (next, effect) = phase.step(event);
            effects.extend(effect);
            (next, effects)
        })
    }

    #[test]
    fn a_request_boots_a_cold_sprite_once() {
        let (phase, effects) = run(Phase::Cold, &[Event::Wake, Event::Wake, Event::Booted]);
        assert_eq!((phase, effects), (Phase::Running, vec![Effect::Boot]));
    }

    /// A machine whose agent was killed comes back by itself.
    #[test]
    fn a_machine_that_ended_is_booted_again() {
        let (phase, effects) = run(Phase::Running, &[Event::Ended { again: true }, Event::Booted]);
        assert_eq!((phase, effects), (Phase::Running, vec![Effect::Boot]));
    }

    #[test]
    fn a_machine_that_ends_all_the_time_waits_for_a_request() {
        let (phase, effects) = run(Phase::Running, &[Event::Ended { again: false }]);
        assert_eq!((phase, effects), (Phase::Failed, vec![]));
        let (phase, effects) = run(phase, &[Event::Wake]);
        assert_eq!((phase, effects), (Phase::Booting { then: Then::Stay }, vec![Effect::Boot]));
    }

    #[test]
    fn a_destroy_during_a_boot_happens_after_it() {
        let (phase, effects) =
            run(Phase::Cold, &[Event::Wake, Event::Destroy, Event::Wake, Event::Booted]);
        assert_eq!((phase, effects), (Phase::Destroying, vec![Effect::Boot, Effect::Destroy]));
    }

    #[test]
    fn a_request_during_a_stop_boots_afterwards() {
        let (phase, effects) = run(Phase::Running, &[Event::Stop, Event::Wake, Event::Stopped]);
        assert_eq!(phase, Phase::Booting { then: Then::Stay });
        assert_eq!(effects, [Effect::Stop, Effect::Boot]);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Wake),
            Just(Event::Restart),
            Just(Event::Stop),
            Just(Event::Destroy),
            // Outcomes; the test below delivers one only if its effect is in flight.
            Just(Event::Booted),
            Just(Event::BootFailed),
            Just(Event::Ended { again: true }),
            Just(Event::Ended { again: false }),
            Just(Event::Stopped),
            Just(Event::Destroyed),
        ]
    }

    fn is_outcome_of(event: Event, effect: Option<Effect>) -> bool {
        match event {
            Event::Booted | Event::BootFailed => effect == Some(Effect::Boot),
            Event::Stopped => effect == Some(Effect::Stop),
            Event::Destroyed => effect == Some(Effect::Destroy),
            _ => true,
        }
    }

    proptest! {
        #[test]
        fn never_two_effects_at_once_and_a_destroy_is_never_forgotten(
            events in proptest::collection::vec(any_event(), 0..60)
        ) {
            let mut phase = Phase::Cold;
            let mut in_flight = None;
            let mut destroyed = false;
            for event in events {
                if !is_outcome_of(event, in_flight) {
                    continue;
                }
                if matches!(event, Event::Booted | Event::BootFailed | Event::Stopped | Event::Destroyed) {
                    in_flight = None;
                }
                destroyed |= event == Event::Destroy;
                let (next, effect) = phase.step(event);
                if let Some(effect) = effect {
                    prop_assert_eq!(in_flight, None, "{:?} in {:?}", event, phase);
                    in_flight = Some(effect);
                }
                phase = next;
                let waits = matches!(
                    phase, Phase::Booting { .. } | Phase::Stopping { .. } | Phase::Destroying
                );
                prop_assert_eq!(waits, in_flight.is_some(), "{:?}", phase);
            }
            if destroyed {
                let going = matches!(
                    phase,
                    Phase::Booting { then: Then::Destroy }
                        | Phase::Stopping { then: Then::Destroy }
                        | Phase::Destroying
                        | Phase::Gone
                );
                prop_assert!(going, "{:?}", phase);
            }
        }
    }
}
