//! The Unix socket in the home directory.
//!
//! The system bounds the path of a Unix socket to about a hundred bytes. On Linux a longer one is reached
//! through an open handle of the directory; elsewhere it is refused by name.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::home;

/// Connections that wait to be accepted; commands are few and short.
const BACKLOG: i32 = 64;

/// A path by which the socket can be named, and what keeps that path valid.
struct Name {
    path: PathBuf,
    _dir: Option<File>,
}

fn name(dir: &Path) -> anyhow::Result<Name> {
    let path = dir.join(home::SOCKET);
    if SockAddr::unix(&path).is_ok() {
        return Ok(Name { path, _dir: None });
    }
    through_handle(dir).with_context(|| {
        format!("the path {} is too long for a socket: give a shorter --home", path.display())
    })
}

#[cfg(target_os = "linux")]
fn through_handle(dir: &Path) -> io::Result<Name> {
    use std::os::fd::AsRawFd as _;
    let handle = File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{}", handle.as_raw_fd(), home::SOCKET);
    Ok(Name { path: path.into(), _dir: Some(handle) })
}

#[cfg(not(target_os = "linux"))]
fn through_handle(_dir: &Path) -> io::Result<Name> {
    Err(io::ErrorKind::InvalidFilename.into())
}

/// Listens, in place of a socket that an earlier run left behind. The caller holds the home's lock.
///
/// # Errors
/// If the socket cannot be made.
pub(super) fn listen(dir: &Path) -> anyhow::Result<tokio::net::UnixListener> {
    let name = name(dir)?;
    let made = (|| {
        match fs::remove_file(&name.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(&name.path)?)?;
        // Nobody can connect before `listen`, so nobody gets in before the mode is right.
        fs::set_permissions(&name.path, fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(socket.into())
    })();
    made.map_err(|error| {
        anyhow!("cannot listen on {}: {}", dir.join(home::SOCKET).display(), home::unwritten(&error))
    })
}

/// Connects to the node; `None` if nobody listens.
///
/// # Errors
/// If the socket is there and cannot be used.
pub(super) async fn connect(dir: &Path) -> anyhow::Result<Option<tokio::net::UnixStream>> {
    let name = name(dir)?;
    match tokio::net::UnixStream::connect(&name.path).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => {
            Err(error).with_context(|| format!("cannot reach {}", dir.join(home::SOCKET).display()))
        }
    }
}

/// Removes the socket's name.
pub(super) fn remove(dir: &Path) {
    let _ = fs::remove_file(dir.join(home::SOCKET));
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn talk(dir: &Path) {
        assert!(connect(dir).await.unwrap().is_none(), "nobody listens yet");
        let listener = listen(dir).unwrap();
        let mode = fs::metadata(dir.join(home::SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(connect(dir).await.unwrap().is_some());
        listener.accept().await.unwrap();
        drop(listener);
        assert!(connect(dir).await.unwrap().is_none(), "a left-over name is nobody");
        listen(dir).unwrap();
        remove(dir);
        assert!(connect(dir).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_left_over_socket_is_replaced() {
        talk(tempfile::tempdir().unwrap().path()).await;
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_home_deeper_than_a_socket_path_may_be_works() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("x".repeat(120));
        fs::create_dir(&dir).unwrap();
        talk(&dir).await;
    }
}
