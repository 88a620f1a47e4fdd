//! Content that lies in the inode itself, of file systems with the feature `inline_data`.

use crate::error::{FsError, Place};
use crate::filesystem::FileSystem;
use crate::inode::Inode;

/// A folder in an inode begins with the number of the folder above.
const PARENT_LEN: usize = 4;

/// Returns the content: the room for the map of blocks, then an attribute.
pub(crate) fn content(fs: &FileSystem, inode: &Inode) -> Result<Vec<u8>, FsError> {
    let mut content = inode.block.to_vec();
    content.extend(fs.inline_tail(inode)?);
    let size = usize::try_from(inode.metadata.size_bytes).unwrap_or(usize::MAX);
    if size > content.len() {
        let reason = "it is larger than the content in it";
        return Err(FsError::corrupt(Place::Inode(inode.number), reason));
    }
    content.truncate(size);
    Ok(content)
}

/// Returns the two lists of entries of a folder.
pub(crate) fn directory_parts(fs: &FileSystem, inode: &Inode) -> Result<[Vec<u8>; 2], FsError> {
    Ok([inode.block[PARENT_LEN..].to_vec(), fs.inline_tail(inode)?])
}
