//! A back end around another that fails in the ways real ones do, for tests.

mod pause;
mod stale;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::backend::{Attempt, Backend, Body, ObjectInfo, Page};
use crate::{Failure, Key, Operation, Prefix, Random};
use pause::{Armed, Gate};
pub use pause::{Pause, When};
use stale::Past;

/// How often which fault happens, in thousandths of all requests it can happen to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// The request is lost on its way; the answer is a failure that may be retried.
    pub unreachable: u32,
    /// The request is never answered; only the caller's patience ends it. Use paused time.
    pub hang: u32,
    /// The store answers 500 and did nothing.
    pub server_error: u32,
    /// The store asks to come back in a second.
    pub throttled: u32,
    /// The request is carried out and its answer lost.
    pub lost_answer: u32,
    /// A write is given up by the client and carried out up to `late_ms_max` later.
    pub late: u32,
    /// Longest delay of a late write, in ms.
    pub late_ms_max: u64,
    /// The answer comes up to `slow_ms_max` later.
    pub slow: u32,
    /// Longest delay of a slow answer, in ms.
    pub slow_ms_max: u64,
    /// Delay of each request, in ms.
    pub delay_ms: u64,
    /// A listing without the newest changes.
    pub stale_list: u32,
    /// A body that ends early.
    pub torn_body: u32,
    /// A body with one wrong bit. A store cannot notice it, its callers must.
    pub wrong_bytes: u32,
}

impl FaultRates {
    /// Returns a mixture that a correct client survives: everything but hangs, stale listings
    /// and wrong bytes, each at the given rate.
    #[must_use]
    pub fn survivable(rate: u32) -> Self {
        Self {
            unreachable: rate,
            server_error: rate,
            throttled: rate,
            lost_answer: rate,
            late: rate,
            late_ms_max: 20_000,
            slow: rate,
            slow_ms_max: 20_000,
            torn_body: rate,
            ..Self::default()
        }
    }
}

/// Numbers that depend on nothing but the seed (SplitMix64).
#[must_use]
pub fn seeded(seed: u64) -> Random {
    let state = Mutex::new(seed);
    Arc::new(move || {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

/// A back end with faults. Clones share everything.
///
/// # Cancel safety
/// A write that is stopped at a [`Pause`] or runs late is carried out also if its caller is gone.
#[derive(Clone)]
pub struct Faults {
    inner: Arc<dyn Backend>,
    random: Random,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    rates: FaultRates,
    counts: BTreeMap<Operation, u64>,
    armed: Vec<Armed>,
    past: Past,
    detached: Vec<JoinHandle<()>>,
    flips: u64,
}

/// What happens to one request.
enum Fate {
    Done,
    Fails(Failure),
    Hangs,
    LosesAnswer,
    Late(Duration),
}

impl Faults {
    /// Wraps a back end; nothing fails until rates are set.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>, seed: u64) -> Self {
        Self { inner, random: seeded(seed), state: Arc::default() }
    }

    /// Sets how often what fails from now on.
    pub fn set_rates(&self, rates: FaultRates) {
        self.lock().rates = rates;
    }

    /// Stops the next request of that kind, and of that key if one is given.
    #[must_use]
    pub fn pause(&self, operation: Operation, key: Option<&Key>, when: When) -> Pause {
        let (pause, armed) = pause::pair(operation, key.cloned(), when);
        self.lock().armed.push(armed);
        pause
    }

    /// Returns how many requests of a kind came here, whatever became of them.
    #[must_use]
    pub fn count(&self, operation: Operation) -> u64 {
        self.lock().counts.get(&operation).copied().unwrap_or(0)
    }

    /// Waits until every write that outlived its caller has landed.
    pub async fn settle(&self) {
        loop {
            let Some(next) = self.lock().detached.pop() else { return };
            // It panicked only if a test's own code did.
            let _ = next.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chance(&self, rate: u32) -> bool {
        rate > 0 && (self.random)() % 1000 < u64::from(rate)
    }

    fn up_to(&self, ms_max: u64) -> Duration {
        Duration::from_millis((self.random)() % ms_max.max(1))
    }

    fn fate(&self, operation: Operation) -> (Fate, Duration) {
        let rates = {
            let mut state = self.lock();
            *state.counts.entry(operation).or_default() += 1;
            state.rates
        };
        let mut delay = Duration::from_millis(rates.delay_ms);
        if self.chance(rates.slow) {
            delay += self.up_to(rates.slow_ms_max);
        }
        let writes =
            matches!(operation, Operation::Create | Operation::Overwrite | Operation::Delete);
        let fate = if self.chance(rates.unreachable) {
            Fate::Fails(Failure::transient("the connection was reset"))
        } else if self.chance(rates.hang) {
            Fate::Hangs
        } else if self.chance(rates.server_error) {
            Fate::Fails(Failure::transient("the store answered 500"))
        } else if self.chance(rates.throttled) {
            let retry_after = Some(Duration::from_secs(1));
            Fate::Fails(Failure::Transient { reason: "slow down".to_owned(), retry_after })
        } else if self.chance(rates.lost_answer) {
            Fate::LosesAnswer
        } else if writes && self.chance(rates.late) {
            Fate::Late(self.up_to(rates.late_ms_max))
        } else {
            Fate::Done
        };
        (fate, delay)
    }

    fn gates(&self, operation: Operation, key: &str) -> (Option<Gate>, Option<Gate>) {
        let mut state = self.lock();
        let mut take = |when| pause::take(&mut state.armed, operation, key, when);
        (take(When::Before), take(When::After))
    }

    /// Carries out one request as fate has it.
    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        name: &str,
        work: BoxFuture<'static, Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let (fate, delay) = self.fate(operation);
        let (before, after) = self.gates(operation, name);
        if before.is_some() || after.is_some() {
            let (done, answer) = oneshot::channel();
            self.detach(async move {
                pause::pass(before).await;
                let result = work.await;
                pause::pass(after).await;
                let _ = done.send(result);
            });
            return answer.await.unwrap_or_else(|_| Err(Failure::transient("no answer")));
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match fate {
            Fate::Done => work.await,
            Fate::Fails(failure) => Err(failure),
            Fate::Hangs => std::future::pending().await,
            Fate::LosesAnswer => {
                let _ = work.await;
                Err(Failure::transient("the connection was closed before the answer"))
            }
            Fate::Late(delay) => {
                self.detach(async move {
                    tokio::time::sleep(delay).await;
                    let _ = work.await;
                });
                Err(Failure::transient("no answer in time"))
            }
        }
    }

    fn detach(&self, work: impl Future<Output = ()> + Send + 'static) {
        let task = tokio::spawn(work);
        self.lock().detached.push(task);
    }

    /// Damages what was read.
    fn distort(&self, mut body: Body) -> Body {
        let rates = self.lock().rates;
        let len = body.bytes.len() as u64;
        if len == 0 {
            return body;
        }
        if self.chance(rates.torn_body) {
            let kept = usize::try_from((self.random)() % len).unwrap_or(0);
            body.bytes.truncate(kept);
        } else if self.chance(rates.wrong_bytes) {
            // Never the same bit twice in a row: damage is not reproducible by nature.
            let bit = {
                let mut state = self.lock();
                state.flips += 1;
                state.flips % (len * 8)
            };
            let mut bytes = body.bytes.to_vec();
            bytes[usize::try_from(bit / 8).unwrap_or(0)] ^= 1 << (bit % 8);
            body.bytes = bytes.into();
        }
        body
    }
}

impl Backend for Faults {
    fn create<'a>(&'a self, key: &'a Key, bytes: Bytes) -> Attempt<'a, ()> {
        let (this, name) = (self.clone(), key.clone());
        let work = async move {
            this.inner.create(&name, bytes).await?;
            this.lock().past.changed(name, None);
            Ok(())
        };
        self.run(Operation::Create, key.as_str(), work.boxed()).boxed()
    }

    fn overwrite<'a>(&'a self, key: &'a Key, bytes: Bytes) -> Attempt<'a, ()> {
        let (this, name) = (self.clone(), key.clone());
        let work = async move {
            let before = this.inner.head(&name).await.ok();
            this.inner.overwrite(&name, bytes).await?;
            this.lock().past.changed(name, before);
            Ok(())
        };
        self.run(Operation::Overwrite, key.as_str(), work.boxed()).boxed()
    }

    fn get<'a>(&'a self, key: &'a Key, bytes_max: u64) -> Attempt<'a, Body> {
        let (this, name) = (self.clone(), key.clone());
        let work = async move { Ok(this.distort(this.inner.get(&name, bytes_max).await?)) };
        self.run(Operation::Get, key.as_str(), work.boxed()).boxed()
    }

    fn get_range<'a>(&'a self, key: &'a Key, start: u64, len: u64) -> Attempt<'a, Body> {
        let (this, name) = (self.clone(), key.clone());
        let work = async move { Ok(this.distort(this.inner.get_range(&name, start, len).await?)) };
        self.run(Operation::GetRange, key.as_str(), work.boxed()).boxed()
    }

    fn head<'a>(&'a self, key: &'a Key) -> Attempt<'a, ObjectInfo> {
        let (this, name) = (self.clone(), key.clone());
        let work = async move { this.inner.head(&name).await };
        self.run(Operation::Head, key.as_str(), work.boxed()).boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        shallow: bool,
        next: Option<&'a str>,
    ) -> Attempt<'a, Page> {
        let (this, folder, from) = (self.clone(), prefix.clone(), next.map(str::to_owned));
        let work = async move {
            let mut page = this.inner.list(&folder, shallow, from.as_deref()).await?;
            let rate = this.lock().rates.stale_list;
            if !shallow && this.chance(rate) {
                let back = usize::try_from((this.random)() % 8).unwrap_or(0) + 1;
                // Only the first page brings back what was deleted, so that it comes once.
                this.lock().past.take_back(&mut page, &folder, back, from.is_none());
            }
            Ok(page)
        };
        self.run(Operation::List, prefix.as_str(), work.boxed()).boxed()
    }

    fn delete<'a>(&'a self, key: &'a Key) -> Attempt<'a, ()> {
        let (this, name) = (self.clone(), key.clone());
        let work = async move {
            let before = this.inner.head(&name).await.ok();
            this.inner.delete(&name).await?;
            if before.is_some() {
                this.lock().past.changed(name, before);
            }
            Ok(())
        };
        self.run(Operation::Delete, key.as_str(), work.boxed()).boxed()
    }
}
