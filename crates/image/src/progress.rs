//! What a person sees while an image is being made.

use std::fmt;
use std::time::{Duration, Instant};

/// One line for a person: a step began, still runs, or has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, such as "download packages".
    pub step: String,
    /// How far it is.
    pub state: State,
    /// How long this step has taken so far.
    pub elapsed: Duration,
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has just begun.
    Started,
    /// It still runs. Reported every few seconds.
    Running,
    /// It has ended well.
    Done,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, state, elapsed } = self;
        match state {
            State::Started => write!(f, "image: {step} …"),
            State::Running => write!(f, "image: {step} … {} s", elapsed.as_secs()),
            State::Done => write!(f, "image: {step}: {:.1} s", elapsed.as_secs_f64()),
        }
    }
}

/// How often a step that still runs is reported.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// The steps of one image, timed and reported as they go.
pub(crate) struct Steps {
    report: Box<dyn Fn(Progress) + Send>,
    current: Option<(String, Instant)>,
    reported: Instant,
    done: Vec<(String, Duration)>,
}

impl Steps {
    pub(crate) fn new(report: impl Fn(Progress) + Send + 'static) -> Self {
        let report = Box::new(report);
        Self { report, current: None, reported: Instant::now(), done: Vec::new() }
    }

    /// Ends the step before and begins one.
    pub(crate) fn begin(&mut self, step: &str) {
        self.end();
        self.current = Some((step.to_owned(), Instant::now()));
        self.tell(State::Started);
    }

    /// Reports the step if it takes long.
    pub(crate) fn tick(&mut self) {
        if self.reported.elapsed() >= REPORT_EVERY {
            self.tell(State::Running);
        }
    }

    /// Ends the current step, if any.
    pub(crate) fn end(&mut self) {
        self.tell(State::Done);
        if let Some((step, since)) = self.current.take() {
            self.done.push((step, since.elapsed()));
        }
    }

    /// Names the current step.
    pub(crate) fn current(&self) -> &str {
        self.current.as_ref().map_or("start", |(step, _)| step)
    }

    /// Returns every step that ended, and how long it took.
    pub(crate) fn into_done(mut self) -> Vec<(String, Duration)> {
        self.end();
        self.done
    }

    fn tell(&mut self, state: State) {
        if let Some((step, since)) = &self.current {
            self.reported = Instant::now();
            (self.report)(Progress { step: step.clone(), state, elapsed: since.elapsed() });
        }
    }
}
