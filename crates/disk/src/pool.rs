//! Copies of an image made ahead, so that a new disk costs one rename.
//!
//! A ready copy is a complete, durable file `ready/<image>/<number>`. One thread makes them; a
//! taker renames one away, and the file system decides who gets it. Nothing is kept in memory:
//! after a crash the copies are still there, and half-made ones are removed at the next start.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::copy::copy_in_steps;
use crate::space::{Admission, Policy, admission, free_space};

/// Prefix of names of copies that are being made.
pub(crate) const UNFINISHED: &str = "tmp-";

/// The ready copies of every image in use, and the thread that makes more.
#[derive(Debug)]
pub(crate) struct Pool {
    dir: PathBuf,
    refill: Mutex<Option<Refill>>,
}

#[derive(Debug)]
struct Refill {
    images: mpsc::Sender<PathBuf>,
    thread: JoinHandle<()>,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Pool {
    /// Opens the pool in `dir`, removes half-made copies, and starts its thread.
    pub(crate) fn open(dir: PathBuf, ready_copies: usize, policy: Policy) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        for image in fs::read_dir(&dir)? {
            for copy in fs::read_dir(image?.path())? {
                let copy = copy?;
                if copy.file_name().to_string_lossy().starts_with(UNFINISHED) {
                    fs::remove_file(copy.path())?;
                }
            }
        }
        let (images, inbox) = mpsc::channel();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let filler =
            Filler { dir: dir.clone(), ready_copies, policy, stop: Arc::clone(&stop), made: 0 };
        let thread = thread::Builder::new()
            .name("disk-refill".to_owned())
            .spawn(move || filler.run(&inbox))?;
        Ok(Self { dir, refill: Mutex::new(Some(Refill { images, thread, stop })) })
    }

    /// Asks for ready copies of `image`, in the background.
    pub(crate) fn refill(&self, image: &Path) {
        let refill = self.refill.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(refill) = &*refill {
            // The thread ends only after this sender is gone.
            let _ = refill.images.send(image.to_owned());
        }
    }

    /// Moves a ready copy of `image` to `to`; false if there is none.
    pub(crate) fn take(&self, image: &Path, to: &Path) -> io::Result<bool> {
        let copies = match fs::read_dir(self.dir.join(key(image)?)) {
            Ok(copies) => copies,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        for copy in copies {
            let copy = copy?;
            if copy.file_name().to_string_lossy().starts_with(UNFINISHED) {
                continue;
            }
            match rename_new(&copy.path(), to) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {} // taken by another
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Removes the ready copies of all images but these.
    pub(crate) fn retain(&self, images: &[&Path]) -> io::Result<()> {
        let keys: Vec<String> = images.iter().filter_map(|image| key(image).ok()).collect();
        for pool in fs::read_dir(&self.dir)? {
            let pool = pool?;
            if !keys.iter().any(|key| pool.file_name() == key.as_str()) {
                fs::remove_dir_all(pool.path())?;
            }
        }
        Ok(())
    }

    /// Ends the thread, and gives up the copy that it is making. Ready copies stay.
    pub(crate) fn close(&self) {
        let refill = self.refill.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Refill { images, thread, stop }) = refill {
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            drop(images);
            let _ = thread.join();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

struct Filler {
    dir: PathBuf,
    ready_copies: usize,
    policy: Policy,
    stop: Arc<std::sync::atomic::AtomicBool>,
    made: u64,
}

impl Filler {
    fn run(mut self, inbox: &mpsc::Receiver<PathBuf>) {
        while let Ok(image) = inbox.recv() {
            if let Err(error) = self.fill(&image) {
                tracing::warn!(image = %image.display(), %error, "ready copy not made");
            }
        }
    }

    fn fill(&mut self, image: &Path) -> io::Result<()> {
        let dir = self.dir.join(key(image)?);
        fs::create_dir_all(&dir)?;
        while !self.stop.load(std::sync::atomic::Ordering::Relaxed)
            && count(&dir)? < self.ready_copies
            && self.has_room(image)?
        {
            self.made += 1;
            let unfinished = dir.join(format!("{UNFINISHED}{}", self.made));
            let ready = dir.join(format!("{}-{}", std::process::id(), self.made));
            // Made durable step by step: one write of everything at the end would hold up both
            // other writers and a shutdown.
            let stop = &self.stop;
            let copied = copy_in_steps(image, &unfinished, &mut |copy| {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                copy.sync_data()
            });
            match copied {
                Err(_) if stop.load(std::sync::atomic::Ordering::Relaxed) => return Ok(()),
                other => other.map_err(io::Error::other)?,
            }
            fs::rename(&unfinished, &ready)?;
            sync_dir(&dir)?;
        }
        Ok(())
    }

    /// A copy made ahead must not be what fills the host.
    fn has_room(&self, image: &Path) -> io::Result<bool> {
        let mut space = free_space(&self.dir).map_err(io::Error::other)?;
        space.available.0 = space.available.0.saturating_sub(fs::metadata(image)?.blocks() * 512);
        Ok(admission(space, &self.policy, Admission::Ok) == Admission::Ok)
    }
}

/// Names a folder for exactly this version of an image file.
fn key(image: &Path) -> io::Result<String> {
    let meta = fs::metadata(image)?;
    Ok(format!("{:x}-{:x}-{:x}.{:x}", meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

fn count(dir: &Path) -> io::Result<usize> {
    Ok(fs::read_dir(dir)?.count())
}

/// Renames, but replaces nothing.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}
