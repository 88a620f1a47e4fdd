//! The folder of images that a host shares.
//!
//! ```text
//! <dir>/lock                   held while an image is made or removed
//! <dir>/tmp-…/                 an image being made; removed by the next holder of the lock
//! <dir>/img-…/root.ext4        the image
//! <dir>/img-…/image.json       what it is; written last
//! <dir>/last-failed-build.log
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use sprite_types::{ByteSize, Clock, ImageId, SystemClock, Timestamp};

use crate::build::{self, Job};
use crate::error::ImageError;
use crate::import::{self, ImportFrom};
use crate::progress::{Progress, Steps};
use crate::recipe::Recipe;

/// Where images are kept unless somebody says otherwise: outside every data folder, so that
/// all of a host's share them.
pub const DEFAULT_CACHE_DIR: &str = "/var/cache/sprites/images";

const IMAGE_FILE: &str = "root.ext4";
const RECORD_FILE: &str = "image.json";
const UNFINISHED: &str = "tmp-";

/// A complete image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its id, from what it was made of.
    pub id: ImageId,
    /// A name for people; several images can share one.
    pub name: String,
    /// The ext4 file.
    pub path: PathBuf,
    /// When it was made.
    pub created_at: Timestamp,
    /// How it was made.
    pub origin: Origin,
    /// Size of the file system.
    pub size: ByteSize,
    /// What it takes on the host's disk.
    pub allocated: ByteSize,
}

/// How an image was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From the distribution's packages.
    Built,
    /// From a tarball or an OCI layout.
    Imported,
}

/// What is stored about an image, beside it.
#[derive(Serialize, Deserialize)]
struct Record {
    id: ImageId,
    name: String,
    created_at: Timestamp,
    origin: Origin,
    /// Milliseconds of each step.
    steps_ms: Vec<(String, u64)>,
}

/// The images of this host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images {
    dir: PathBuf,
}

impl Images {
    /// Opens the folder, making it if it is missing.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let dir = dir.into();
        fs::create_dir_all(&dir)
            .map_err(|source| ImageError::io(format!("make `{}`", dir.display()), source))?;
        Ok(Self { dir })
    }

    /// Returns an image if it is there.
    #[must_use]
    pub fn get(&self, id: &ImageId) -> Option<Image> {
        let dir = self.dir.join(id.as_str());
        let record: Record = serde_json::from_slice(&fs::read(dir.join(RECORD_FILE)).ok()?).ok()?;
        let path = dir.join(IMAGE_FILE);
        let meta = fs::metadata(&path).ok()?;
        let Record { name, created_at, origin, .. } = record;
        let (size, allocated) = (ByteSize(meta.len()), ByteSize(meta.blocks() * 512));
        Some(Image { id: id.clone(), name, path, created_at, origin, size, allocated })
    }

    /// Lists the images, oldest first.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let failed = |source| ImageError::io(format!("read `{}`", self.dir.display()), source);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let id = name.to_str().and_then(|name| name.parse().ok());
            found.extend(id.and_then(|id| self.get(&id)));
        }
        found.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(found)
    }

    /// Finds an image by its id or, the newest, by its name.
    ///
    /// # Errors
    /// [`ImageError::NotFound`].
    pub fn find(&self, name: &str) -> Result<Image, ImageError> {
        let matches = |image: &Image| image.name == name || image.id.as_str() == name;
        let found = self.list()?.into_iter().rfind(matches);
        found.ok_or_else(|| ImageError::NotFound { name: name.to_owned() })
    }

    /// Returns the recipe's image, building it if it is missing. One build at a time per host:
    /// whoever comes second waits, and then finds the image.
    ///
    /// # Errors
    /// See [`ImageError`]; nothing is left of a failed build but its log.
    ///
    /// # Cancel safety
    /// Dropping the future ends the build, and blocks for up to 5 s until nothing is left of it.
    pub async fn ensure(
        &self,
        recipe: Recipe,
        report: impl Fn(Progress) + Send + 'static,
    ) -> Result<Image, ImageError> {
        match self.get(&recipe.id()) {
            Some(image) => Ok(image),
            None => self.build(recipe, false, report).await,
        }
    }

    /// Builds the recipe's image again, for instance to have newer packages, and puts it in the
    /// place of the old one. Disks made of the old one are not touched.
    ///
    /// # Errors
    /// See [`ImageError`]; the old image stays when a build fails.
    ///
    /// # Cancel safety
    /// As [`Self::ensure`].
    pub async fn rebuild(
        &self,
        recipe: Recipe,
        report: impl Fn(Progress) + Send + 'static,
    ) -> Result<Image, ImageError> {
        self.build(recipe, true, report).await
    }

    /// Makes an image of a root file system made elsewhere. Nothing of it is run.
    ///
    /// # Errors
    /// See [`ImageError`]; nothing is left of a failed import.
    ///
    /// # Cancel safety
    /// As [`Self::ensure`].
    pub async fn import(
        &self,
        from: ImportFrom,
        name: String,
        report: impl Fn(Progress) + Send + 'static,
    ) -> Result<Image, ImageError> {
        if name.is_empty() || name.len() > 100 || name.chars().any(|c| c.is_control() || c == '/') {
            let what = format!("image name `{}`", name.escape_debug());
            return Err(ImageError::Invalid { what });
        }
        let images = self.clone();
        in_thread("image-import", move |cancel| {
            let mut steps = Steps::new(report);
            let _lock = images.lock(&mut steps, cancel)?;
            let work = images.work_dir()?;
            let out = work.0.join(IMAGE_FILE);
            let id = import::import(&from, &work.0, &out, &mut steps, cancel)?;
            match images.get(&id) {
                Some(image) => Ok(image),
                None => images.keep(work, id, name, Origin::Imported, steps),
            }
        })
        .await
    }

    /// Removes an image. Disks made of it are not touched.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], or if the host's file system refuses.
    pub async fn remove(&self, id: &ImageId) -> Result<(), ImageError> {
        let (images, id) = (self.clone(), id.clone());
        in_thread("image-remove", move |cancel| {
            let _lock = images.lock(&mut Steps::new(|_| {}), cancel)?;
            let dir = images.dir.join(id.as_str());
            if !dir.exists() {
                return Err(ImageError::NotFound { name: id.to_string() });
            }
            // First out of sight as a whole, then gone.
            let gone = images.dir.join(format!("{UNFINISHED}{id}"));
            fs::rename(&dir, &gone)
                .and_then(|()| fs::remove_dir_all(&gone))
                .map_err(|source| ImageError::io(format!("remove `{}`", dir.display()), source))
        })
        .await
    }

    async fn build(
        &self,
        recipe: Recipe,
        again: bool,
        report: impl Fn(Progress) + Send + 'static,
    ) -> Result<Image, ImageError> {
        let images = self.clone();
        in_thread("image-build", move |cancel| {
            let mut steps = Steps::new(report);
            let _lock = images.lock(&mut steps, cancel)?;
            let id = recipe.id();
            if let Some(image) = images.get(&id).filter(|_| !again) {
                return Ok(image); // made while we waited
            }
            let work = images.work_dir()?;
            let out = work.0.join(IMAGE_FILE);
            let failed_log = images.dir.join("last-failed-build.log");
            let now = u64::try_from(SystemClock.now().as_secs()).unwrap_or(0);
            let job = Job {
                work: &work.0,
                out: &out,
                failed_log: &failed_log,
                steps: &mut steps,
                cancel,
                now,
            };
            build::build(&recipe, job)?;
            images.keep(work, id, recipe.name(), Origin::Built, steps)
        })
        .await
    }

    /// Waits for everybody else who makes images, then removes what a crash left.
    fn lock(&self, steps: &mut Steps, cancel: &AtomicBool) -> Result<File, ImageError> {
        let failed = |source| ImageError::io(format!("lock `{}`", self.dir.display()), source);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.dir.join("lock"))
            .map_err(failed)?;
        let mut waiting = false;
        while let Err(error) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(ImageError::Cancelled);
            }
            if !waiting {
                steps.begin("wait for another build on this host");
                waiting = true;
            }
            steps.tick();
            std::thread::sleep(Duration::from_millis(100));
        }
        for entry in fs::read_dir(&self.dir).map_err(failed)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                remove_tree(&entry.path());
            }
        }
        Ok(lock)
    }

    fn work_dir(&self) -> Result<WorkDir, ImageError> {
        let dir = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&self.dir);
        let dir = dir.map_err(|source| {
            ImageError::io(format!("make a folder in `{}`", self.dir.display()), source)
        })?;
        Ok(WorkDir(dir.keep()))
    }

    /// Puts a finished image in its place, as a whole.
    fn keep(
        &self,
        work: WorkDir,
        id: ImageId,
        name: String,
        origin: Origin,
        steps: Steps,
    ) -> Result<Image, ImageError> {
        let created_at = SystemClock.now();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let steps_ms = steps.into_done().into_iter().map(|(step, time)| (step, millis(time)));
        let record =
            Record { id: id.clone(), name, created_at, origin, steps_ms: steps_ms.collect() };
        let place = || {
            let dir = work.0.join("image");
            fs::create_dir(&dir)?;
            fs::rename(work.0.join(IMAGE_FILE), dir.join(IMAGE_FILE))?;
            let text = serde_json::to_vec_pretty(&record)?;
            fs::write(dir.join(RECORD_FILE), text)?;
            for durable in [dir.join(RECORD_FILE), dir.join(IMAGE_FILE), dir.clone()] {
                File::open(durable)?.sync_all()?;
            }
            let target = self.dir.join(id.as_str());
            if target.exists() {
                fs::rename(&target, work.0.join("replaced"))?;
            }
            fs::rename(&dir, &target)?;
            File::open(&self.dir)?.sync_all()
        };
        place()
            .map_err(|source: io::Error| ImageError::io("put the image in its place", source))?;
        self.get(&id).ok_or_else(|| ImageError::NotFound { name: id.to_string() })
    }
}

/// A folder for making an image, removed when dropped.
struct WorkDir(PathBuf);

impl Drop for WorkDir {
    fn drop(&mut self) {
        remove_tree(&self.0);
    }
}

/// Removes a tree however deep it is, which the standard library's way cannot.
fn remove_tree(path: &Path) {
    let status =
        Command::new("rm").arg("-rf").arg("--one-file-system").arg("--").arg(path).status();
    if !status.is_ok_and(|status| status.success()) {
        tracing::warn!(path = %path.display(), "left-over folder not removed");
    }
}

/// How long a caller that gives up waits for the end of what it started.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// Runs `work` in a thread of its own, which is told when nobody waits for it any more.
///
/// Not one of the runtime's: those hold up its end, and the processes of a build are bound to
/// the thread that started them.
async fn in_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce(&AtomicBool) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let cancel = Arc::new(AtomicBool::new(false));
    let (send, receive) = tokio::sync::oneshot::channel();
    let thread = {
        let cancel = Arc::clone(&cancel);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _ = send.send(work(&cancel));
            })
            .map_err(|source| ImageError::io("start a thread", source))?
    };
    let guard = CancelOnDrop { cancel, thread };
    let result = receive.await;
    drop(guard);
    result.unwrap_or(Err(ImageError::Cancelled))
}

/// Cancels the work of a thread and gives it a moment to tidy up: the process may be about to
/// end, and with it the thread.
struct CancelOnDrop {
    cancel: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        let started = std::time::Instant::now();
        while !self.thread.is_finished() && started.elapsed() < CANCEL_WAIT {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
