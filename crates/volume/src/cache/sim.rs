//! A disk in memory whose power can be cut, whose syncs can fail, and whose user can be killed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Dir, File};
use sprite_testkit::Rng;

const PAGE: usize = 4_096;
const SECTOR: usize = 512;

/// What a killed process leaves: the panic that ends it.
pub(crate) struct Killed;

type Page = Arc<[u8; PAGE]>;
type Names = BTreeMap<String, BTreeMap<String, u64>>;

/// A page: what the disk has, what was written since, and what the page cache shows although its
/// sync failed.
#[derive(Default, Clone)]
struct Content {
    durable: Option<Page>,
    pending: Vec<Page>,
    phantom: Option<Page>,
}

impl Content {
    fn seen(&self) -> Option<&Page> {
        self.pending.last().or(self.phantom.as_ref()).or(self.durable.as_ref())
    }

    /// Any of the versions that could have reached the disk.
    fn any(&self, rng: &mut Rng) -> Option<Page> {
        match rng.below(self.pending.len() + 1) {
            0 => self.durable.clone(),
            at => Some(self.pending[at - 1].clone()),
        }
    }
}

#[derive(Default)]
struct SimFile {
    pages: BTreeMap<u64, Content>,
    len: u64,
    durable_len: u64,
    /// Sectors of a page reach the disk one by one.
    torn_pages: bool,
}

#[derive(Default)]
struct State {
    rng: u64,
    files: BTreeMap<u64, SimFile>,
    names: Names,
    /// Every state of the names since the last sync; the first is durable.
    names_since: Vec<Names>,
    space: u64,
    fail_sync: bool,
    kill_in: Option<u32>,
    syncs: u64,
    /// Power cuts so far: a handle from before one is dead.
    cuts: u64,
}

/// The disk of one host. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        let names_since = vec![Names::new()];
        Self(Arc::new(Mutex::new(State {
            rng: seed,
            names_since,
            space: u64::MAX,
            ..State::default()
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a random subset of what was not synced.
    pub(crate) fn cut_power(&self) {
        let mut state = self.state();
        let mut rng = Rng::new(state.rng);
        let last = rng.below(state.names_since.len());
        let names = state.names_since[last].clone();
        state.names_since = vec![names.clone()];
        state.names = names;
        for file in state.files.values_mut() {
            if rng.below(2) == 0 {
                file.len = file.durable_len;
            }
            file.durable_len = file.len;
            for content in file.pages.values_mut() {
                let mut kept = content.any(&mut rng);
                if file.torn_pages && !content.pending.is_empty() {
                    let mut page = [0; PAGE];
                    for start in (0..PAGE).step_by(SECTOR) {
                        let sector = start..start + SECTOR;
                        if let Some(version) = content.any(&mut rng) {
                            page[sector.clone()].copy_from_slice(&version[sector]);
                        }
                    }
                    kept = Some(Arc::new(page));
                }
                *content = Content { durable: kept, ..Content::default() };
            }
            let end = file.len.div_ceil(PAGE as u64);
            file.pages.retain(|at, _| *at < end);
        }
        state.rng = rng.next();
        state.fail_sync = false;
        state.kill_in = None;
        state.cuts += 1;
    }

    /// Kills the user after so many writes, syncs and changes of names, halfway through one.
    pub(crate) fn kill_in(&self, operations: Option<u32>) {
        self.state().kill_in = operations;
    }

    /// Lets the next sync fail as Linux does: pages are lost, and later syncs succeed.
    pub(crate) fn fail_next_sync(&self) {
        self.state().fail_sync = true;
    }

    /// Bytes that may be allocated in all files together.
    pub(crate) fn set_space(&self, bytes: u64) {
        self.state().space = bytes;
    }

    /// How many syncs there were.
    pub(crate) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Damages what is there, durable or not: one bit of some page of a file of that name.
    pub(crate) fn flip_bit(&self, dir: &str, name: &str, at: u64) {
        let mut state = self.state();
        let id = state.names[dir][name];
        let file = state.files.get_mut(&id).expect("named files exist");
        let content = file.pages.entry(at / PAGE as u64).or_default();
        let mut page = content.seen().map_or([0; PAGE], |page| **page);
        page[usize::try_from(at % PAGE as u64).expect("small")] ^= 1;
        *content = Content { durable: Some(Arc::new(page)), ..Content::default() };
    }

    /// Counts down to the kill. `halfway` does a part of the operation that is cut short.
    fn step(&self, halfway: impl FnOnce(&mut State, &mut Rng)) -> MutexGuard<'_, State> {
        let mut state = self.state();
        match &mut state.kill_in {
            Some(0) => {
                let mut rng = Rng::new(state.rng);
                halfway(&mut state, &mut rng);
                state.rng = rng.next();
                drop(state);
                std::panic::resume_unwind(Box::new(Killed));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        state
    }

    fn change_names<T>(&self, change: impl FnOnce(&mut Names) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.step(|_, _| {});
        let result = change(&mut state.names);
        let names = state.names.clone();
        state.names_since.push(names);
        result
    }

    fn file(&self, id: u64) -> Box<dyn File> {
        let cuts = self.state().cuts;
        Box::new(Handle { disk: self.clone(), id, cuts })
    }
}

impl Dir for SimDisk {
    fn make(&self, dir: &str) -> io::Result<()> {
        self.change_names(|names| {
            names.insert(dir.to_owned(), BTreeMap::new());
            Ok(())
        })
    }

    fn exists(&self, dir: &str) -> io::Result<bool> {
        Ok(self.state().names.contains_key(dir))
    }

    fn remove(&self, dir: &str) -> io::Result<()> {
        self.change_names(|names| {
            names.remove(dir);
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change_names(|names| {
            if names.contains_key(to) {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            let files = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            names.insert(to.to_owned(), files);
            Ok(())
        })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&self, dir: &str, name: &str) -> io::Result<Box<dyn File>> {
        let id = {
            let mut state = self.state();
            let id = state.files.len() as u64;
            let torn_pages = name.starts_with("journal");
            state.files.insert(id, SimFile { torn_pages, ..SimFile::default() });
            id
        };
        self.change_names(|names| {
            let files = names.get_mut(dir).ok_or(io::ErrorKind::NotFound)?;
            files.insert(name.to_owned(), id);
            Ok(())
        })?;
        Ok(self.file(id))
    }

    fn open(&self, dir: &str, name: &str) -> io::Result<Box<dyn File>> {
        let state = self.state();
        let id = state.names.get(dir).and_then(|files| files.get(name));
        let id = *id.ok_or(io::ErrorKind::NotFound)?;
        drop(state);
        Ok(self.file(id))
    }

    fn sync(&self, _: &str) -> io::Result<()> {
        let mut state = self.step(|_, _| {});
        let names = state.names.clone();
        state.names_since = vec![names];
        Ok(())
    }
}

struct Handle {
    disk: SimDisk,
    id: u64,
    cuts: u64,
}

impl Handle {
    fn with<T>(&self, use_it: impl FnOnce(&mut SimFile) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state();
        self.alive(&state)?;
        use_it(state.files.get_mut(&self.id).expect("files are never removed"))
    }

    fn alive(&self, state: &State) -> io::Result<()> {
        if state.cuts == self.cuts { Ok(()) } else { Err(io::Error::other("the power was cut")) }
    }
}

fn put(file: &mut SimFile, data: &[u8], offset: u64, mut want: impl FnMut() -> bool) {
    let mut rest = data;
    let mut at = offset;
    while !rest.is_empty() {
        let within = usize::try_from(at % PAGE as u64).expect("small");
        let len = rest.len().min(PAGE - within);
        if want() {
            let content = file.pages.entry(at / PAGE as u64).or_default();
            let mut page = content.seen().map_or([0; PAGE], |page| **page);
            page[within..within + len].copy_from_slice(&rest[..len]);
            content.pending.push(Arc::new(page));
            file.len = file.len.max(at + len as u64);
        }
        rest = &rest[len..];
        at += len as u64;
    }
}

impl File for Handle {
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|file| {
            if offset + buf.len() as u64 > file.len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut done = 0;
            while done < buf.len() {
                let at = offset + done as u64;
                let within = usize::try_from(at % PAGE as u64).expect("small");
                let len = (buf.len() - done).min(PAGE - within);
                let target = &mut buf[done..done + len];
                match file.pages.get(&(at / PAGE as u64)).and_then(Content::seen) {
                    Some(page) => target.copy_from_slice(&page[within..within + len]),
                    None => target.fill(0),
                }
                done += len;
            }
            Ok(())
        })
    }

    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.step(|state, rng| {
            let file = state.files.get_mut(&self.id).expect("files are never removed");
            put(file, data, offset, || rng.below(2) == 0);
        });
        self.alive(&state)?;
        let file = state.files.get_mut(&self.id).expect("files are never removed");
        put(file, data, offset, || true);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.step(|_, _| {});
        self.alive(&state)?;
        let fail = std::mem::take(&mut state.fail_sync);
        state.syncs += 1;
        let mut rng = Rng::new(state.rng);
        let file = state.files.get_mut(&self.id).expect("files are never removed");
        for content in file.pages.values_mut().filter(|content| !content.pending.is_empty()) {
            if fail {
                content.durable = content.any(&mut rng);
                content.phantom = content.pending.pop();
            } else {
                content.durable = content.pending.pop();
                content.phantom = None;
            }
            content.pending.clear();
        }
        file.durable_len = file.len;
        state.rng = rng.next();
        drop(state);
        // A sync takes time, and others go on meanwhile.
        (0..10).for_each(|_| std::thread::yield_now());
        if fail { Err(io::Error::other("the disk lost a write")) } else { Ok(()) }
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.step(|_, _| {});
        self.alive(&state)?;
        let used: u64 = state.files.values().map(|file| file.len).sum();
        let space = state.space;
        let file = state.files.get_mut(&self.id).expect("files are never removed");
        if used - file.len + len.max(file.len) > space {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.len = file.len.max(len);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.with(|file| Ok(file.len))
    }

    fn forget_cached(&self) -> io::Result<()> {
        self.sync()?;
        self.with(|file| {
            file.pages.values_mut().for_each(|content| content.phantom = None);
            Ok(())
        })
    }
}
