//! Files that are either whole or absent, and readable by their owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use data_encoding::BASE32_NOPAD;

/// A key as it is kept: base 32 in lower case, and a line end.
pub(super) fn encode_key(bytes: &[u8; 32]) -> String {
    let mut text = BASE32_NOPAD.encode(bytes);
    text.make_ascii_lowercase();
    text.push('\n');
    text
}

/// The key of a kept form.
pub(super) fn decode_key(text: &str) -> Option<[u8; 32]> {
    let bytes = BASE32_NOPAD.decode(text.trim().to_ascii_uppercase().as_bytes()).ok()?;
    bytes.try_into().ok()
}

/// Opens the file whose lock stands for the directory.
pub(super) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Creates all of `contents` in `dir`, none of which may exist; the last one appears last. The caller
/// holds the lock and has checked.
///
/// Bytes and inodes are on the disk before the first file gets its name, so running out of either
/// leaves nothing. On any error, what was created is removed again.
pub(super) fn write_all_new(dir: &Path, contents: &[(&str, String)]) -> io::Result<()> {
    let mut made: Vec<std::path::PathBuf> = Vec::new();
    let result = (|| {
        for (name, text) in contents {
            let path = dir.join(unfinished(name));
            made.push(path.clone());
            write_synced(&path, text)?;
        }
        for (name, _) in contents {
            let path = dir.join(name);
            fs::rename(dir.join(unfinished(name)), &path)?;
            made.push(path);
        }
        sync_dir(dir)
    })();
    if result.is_err() {
        for path in &made {
            let _ = fs::remove_file(path);
        }
    }
    result
}

/// Replaces `name` in `dir` in one step.
pub(super) fn replace(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let path = dir.join(unfinished(name));
    let result = write_synced(&path, text).and_then(|()| fs::rename(&path, dir.join(name)));
    if result.is_err() {
        let _ = fs::remove_file(&path);
    }
    result.and_then(|()| sync_dir(dir))
}

fn unfinished(name: &str) -> String {
    format!("{name}.unfinished")
}

fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    // Left by a process that died half-way; the lock keeps others out.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
