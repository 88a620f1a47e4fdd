//! The folder of a machine: how the next `sprited` finds it again.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sprite_link::boot::NetworkSpec;
use sprite_types::{BootId, MachineId};

use super::agent::Process;
use crate::machine::Owner;

/// Largest record that is read, in bytes.
const RECORD_MAX: u64 = 64 * 1024;
/// Last part of the agent's log that goes into errors, in bytes.
const TAIL: u64 = 2000;

/// Everything needed to take a running machine over. Holds the link's secret: root only.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) machine_id: MachineId,
    pub(crate) boot_id: BootId,
    pub(crate) owner: Owner,
    pub(crate) link_secret: String,
    pub(crate) process: Process,
    pub(crate) id_base: u32,
    /// Where its cgroups are: our own place in the hierarchies may be another next time.
    pub(crate) cgroup_dirs: Vec<PathBuf>,
    pub(crate) cgroup2_dir: Option<PathBuf>,
    pub(crate) network: NetworkSpec,
}

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(machines_dir: &Path, id: &MachineId) -> Self {
        Self(machines_dir.join(id.as_str()))
    }

    /// Lists the folders of all machines.
    pub(crate) fn all(machines_dir: &Path) -> io::Result<Vec<(MachineId, Self)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(machines_dir)? {
            let name = entry?.file_name();
            if let Some(id) = name.to_str().and_then(|name| name.parse().ok()) {
                found.push((id, Self(machines_dir.join(name))));
            }
        }
        Ok(found)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Short on purpose: a socket's path has at most 107 bytes.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("link")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("agent.log")
    }

    pub(crate) fn create(&self) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        let unfinished = self.0.join("machine.json.unfinished");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        std::fs::rename(unfinished, self.0.join("machine.json"))
    }

    pub(crate) fn read(&self) -> io::Result<Record> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(self.0.join("machine.json"))?;
        file.take(RECORD_MAX).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    pub(crate) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Returns the last lines of the agent's log.
    pub(crate) fn log_tail(&self) -> String {
        let read = || {
            let mut file = std::fs::File::open(self.log())?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
            let mut text = Vec::new();
            file.take(TAIL).read_to_end(&mut text)?;
            io::Result::Ok(String::from_utf8_lossy(&text).trim().to_owned())
        };
        match read() {
            Ok(text) if text.is_empty() => "it wrote nothing".to_owned(),
            Ok(text) => text,
            Err(error) => format!("its log cannot be read: {error}"),
        }
    }
}
