//! How the file system of an image is made.

/// Features of the ext4 file system, all of them named so that the host's `mke2fs.conf` does
/// not matter.
///
/// With `packed_meta_blocks` and tables that count as zeroed, a fresh disk has few places that
/// change and the kernel does not write 1.6 GB of inode tables at the first mount.
/// `sparse_super2` would save a little more, but the kernel refuses to grow such a file system
/// while it is mounted.
pub(crate) const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,\
    flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// The other options of `mkfs.ext4`, as `build.sh` uses them too.
///
/// No `nodiscard`: on a file, a discard first makes everything a hole, and zeroing the tables
/// then costs nothing.
pub(crate) const OPTIONS: [&str; 12] = [
    "-q",
    "-F",
    "-L",
    "sprite",
    "-b",
    "4096",
    "-I",
    "256",
    "-E",
    "packed_meta_blocks=1,lazy_itable_init=0,lazy_journal_init=0",
    "-J",
    "size=64",
];

/// Commands for `debugfs` that give the top folder owner and mode: `mkfs.ext4` before 1.47.1
/// copies those of everything but that one.
pub(crate) const ROOT_FIELDS: &str =
    "set_inode_field / mode 040775\nset_inode_field / uid 0\nset_inode_field / gid 1001\n";
