//! Where do a node's keys, settings and memory live, and who may read them?
//!
//! A home is a directory of mode 0700:
//!
//! | file | what | mode |
//! |---|---|---|
//! | `node.key` | this node's key: base 32, or PEM where the operator brought certificates | 0600 |
//! | `mesh.secret` | the mesh's secret, base 32 | 0600 |
//! | `ca.pem`, `node.pem` | the root and this node's certificate, instead of a secret | 0600 |
//! | `config.toml` | name, addresses to start from | 0600 |
//! | `members.json` | addresses of members met before, to start from next time | 0600 |
//! | `port` | the UDP port of the last run, to take again | 0600 |
//! | `admin.sock` | where the commands reach the running node | 0600 |
//! | `lock` | held by whoever changes the home or runs its node | 0600 |
//!
//! A home comes into being whole or not at all: every file is written and synced under another name
//! first, which is where a full disk shows, and only then given its own. Nothing is ever overwritten but
//! `members.json` and `port`, and those in one step. A key that others may read is refused.

mod files;

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use etcetera::BaseStrategy as _;
use net_mesh::{Identity, MeshSecret, NodeKey};
use serde::{Deserialize, Serialize};

use crate::text;

pub(crate) const SOCKET: &str = "admin.sock";
const NODE_KEY: &str = "node.key";
const MESH_SECRET: &str = "mesh.secret";
const CA_CERT: &str = "ca.pem";
const NODE_CERT: &str = "node.pem";
const CONFIG: &str = "config.toml";
const MEMBERS: &str = "members.json";
const PORT: &str = "port";
const LOCK: &str = "lock";

/// Addresses remembered from one run to the next. A node needs one that answers; more than this would
/// only delay the start when the whole mesh has moved.
pub(crate) const MAX_REMEMBERED: usize = 32;

/// Addresses to start from that one home or ticket may name.
pub(crate) const MAX_BOOTSTRAP: usize = 16;

/// How often a lock that is held is asked for before that is believed, and the pause between: a command that looks whether
/// a node is starting holds it for some microseconds.
const LOCK_TRIES: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The directory of one node.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    /// Whether somebody chose it: other commands find it only if they are told too.
    given: bool,
}

/// What makes a node a member.
pub(crate) enum Material {
    /// The mesh's secret and a key of its own.
    Secret { secret: MeshSecret, key: NodeKey },
    /// Certificates that the operator issued, in PEM.
    Pki { ca: String, cert: String, key: String },
}

/// The settings kept in `config.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The name others see.
    pub name: String,
    /// Addresses to start from, as `HOST:PORT`.
    #[serde(default)]
    pub bootstrap: Vec<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct Members {
    addrs: Vec<std::net::SocketAddr>,
}

/// The right to change the home or run its node; given back when dropped, or when the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Why a file in a home cannot be made, and the cure where it is known.
pub(crate) fn unwritten(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            format!("{error}; the directory must be writable for the user that runs the node")
        }
        _ => error.to_string(),
    }
}

impl Material {
    /// The identity this makes.
    ///
    /// # Errors
    /// If keys and certificates do not belong together.
    pub(crate) fn identity(&self) -> anyhow::Result<Identity> {
        match self {
            Self::Secret { secret, key } => Ok(Identity::from_secret(secret, key)?),
            Self::Pki { ca, cert, key } => Ok(Identity::from_pem(ca, cert, key)?),
        }
    }

    fn files(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Secret { secret, key } => vec![
                (MESH_SECRET, files::encode_key(secret.as_bytes())),
                (NODE_KEY, files::encode_key(key.as_bytes())),
            ],
            Self::Pki { ca, cert, key } => {
                vec![(CA_CERT, ca.clone()), (NODE_CERT, cert.clone()), (NODE_KEY, key.clone())]
            }
        }
    }
}

impl Home {
    /// The home given on the command line, else in the environment, else in the platform's place for data.
    /// An environment variable that is empty is one that is not set.
    ///
    /// # Errors
    /// If none is given and the platform's place cannot be told.
    pub(crate) fn locate(given: Option<&Path>, environment: Option<OsString>) -> anyhow::Result<Self> {
        let environment = environment.filter(|dir| !dir.is_empty()).map(PathBuf::from);
        if let Some(dir) = given.map(Path::to_owned).or(environment) {
            return Ok(Self { dir, given: true });
        }
        let base = etcetera::choose_base_strategy()
            .map_err(|_| anyhow!("cannot tell where to keep data: give --home DIR or set NET_MESH_HOME"))?;
        Ok(Self { dir: base.data_dir().join("net-mesh"), given: false })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The command line that does `what` with this home, to be copied.
    pub(crate) fn command(&self, what: &str) -> String {
        if !self.given {
            return format!("net-mesh {what}");
        }
        format!("net-mesh --home {} {what}", text::shell_word(&self.dir.display().to_string()))
    }

    /// Whether a node's key is here.
    ///
    /// # Errors
    /// If that cannot be told, as by a user who may not look.
    pub(crate) fn exists(&self) -> anyhow::Result<bool> {
        self.told(self.file(NODE_KEY).try_exists())
    }

    fn told(&self, found: std::io::Result<bool>) -> anyhow::Result<bool> {
        found.map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                anyhow!("may not read {}: run this as the user that owns it", self.dir.display())
            }
            _ => anyhow!("cannot read {}: {error}; give another --home", self.dir.display()),
        })
    }

    /// Makes a node of this directory, creating it if needed.
    ///
    /// # Errors
    /// If there is a node already, or anything cannot be written; then nothing is left behind.
    pub(crate) fn create(&self, material: &Material, config: &Config) -> anyhow::Result<()> {
        let fresh = self.make_dir()?;
        let result = self.fill(material, config);
        if result.is_err() && fresh {
            // Only ever removes what this call made: a directory that is not empty stays.
            let _ = fs::remove_file(self.file(LOCK));
            let _ = fs::remove_dir(&self.dir);
        }
        result
    }

    /// Whether the directory is new.
    fn make_dir(&self) -> anyhow::Result<bool> {
        if self.dir.is_dir() {
            return Ok(false);
        }
        if let Some(parent) = self.dir.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        match fs::DirBuilder::new().mode(0o700).create(&self.dir) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && self.dir.is_dir() => Ok(false),
            Err(error) => Err(anyhow!(
                "cannot create the directory {}: {error}; choose another --home",
                self.dir.display()
            )),
        }
    }

    fn fill(&self, material: &Material, config: &Config) -> anyhow::Result<()> {
        let _lock = self.lock()?;
        for name in [NODE_KEY, MESH_SECRET, CA_CERT, NODE_CERT, CONFIG] {
            if self.file(name).symlink_metadata().is_ok() {
                bail!(
                    "{} is there already, and a node's keys are never overwritten: choose another --home",
                    self.file(name).display()
                );
            }
        }
        let config = toml::to_string(config).context("cannot write the settings")?;
        // The key comes last: with it, the home is whole.
        let mut contents = vec![(CONFIG, config)];
        contents.extend(material.files());
        files::write_all_new(&self.dir, &contents).map_err(|error| {
            anyhow!(
                "cannot write the node's files in {}: {error}; nothing was kept: cure that, or choose another --home",
                self.dir.display()
            )
        })
    }

    /// Takes the home's lock.
    ///
    /// # Errors
    /// If another process has it.
    pub(crate) fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.file(LOCK);
        let file = files::open_lock(&path)
            .map_err(|error| anyhow!("cannot open {}: {}", path.display(), unwritten(&error)))?;
        for tried in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if tried < LOCK_TRIES => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => bail!(
                    "a node is already running in {}: stop it first, or give another --home",
                    self.dir.display()
                ),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
        Ok(Lock { _file: file })
    }

    /// Whether a process has the home's lock, as a node has from its start to its end. Leaves nothing behind.
    pub(crate) fn is_locked(&self) -> bool {
        let Ok(file) = File::open(self.file(LOCK)) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Says what to do if there is no node here.
    ///
    /// # Errors
    /// Exactly then.
    pub(crate) fn require(&self) -> anyhow::Result<()> {
        if self.exists()? {
            return Ok(());
        }
        bail!(
            "there is no node in {}: make one with `{}` or `{}`, or give another --home",
            self.dir.display(),
            self.command("init"),
            self.command("join TICKET")
        )
    }

    /// The keys and certificates.
    ///
    /// # Errors
    /// If there are none, they are damaged, or others may read them.
    pub(crate) fn material(&self) -> anyhow::Result<Material> {
        self.require()?;
        let key = self.read_private(NODE_KEY)?;
        if !key.starts_with("-----BEGIN") {
            let secret = self.read_private(MESH_SECRET)?;
            return Ok(Material::Secret {
                secret: MeshSecret::from_bytes(self.decode(MESH_SECRET, &secret)?),
                key: NodeKey::from_bytes(self.decode(NODE_KEY, &key)?),
            });
        }
        Ok(Material::Pki { ca: self.read(CA_CERT)?, cert: self.read(NODE_CERT)?, key })
    }

    /// The settings.
    ///
    /// # Errors
    /// If they cannot be read, or say something they should not.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        let path = self.file(CONFIG);
        if path.try_exists().is_ok_and(|there| !there) {
            bail!(
                "{} is missing: put back a copy, or write one with the lines `name = \"NAME\"` and `bootstrap = [\"HOST:PORT\"]`",
                path.display()
            );
        }
        let config: Config =
            toml::from_str(&self.read(CONFIG)?).with_context(|| format!("cannot use {}", path.display()))?;
        text::parse_name(&config.name)
            .map_err(|why| anyhow!("the name in {} cannot be used: {why}", path.display()))?;
        if config.bootstrap.len() > MAX_BOOTSTRAP {
            bail!("{} names more than {MAX_BOOTSTRAP} addresses to start from", path.display());
        }
        for addr in &config.bootstrap {
            text::parse_host_port(addr).map_err(|why| anyhow!("in {}: {why}", path.display()))?;
        }
        Ok(config)
    }

    /// Addresses of members met before; none if nothing usable was kept, which costs nothing but time.
    pub(crate) fn remembered(&self) -> Vec<std::net::SocketAddr> {
        let text = fs::read_to_string(self.file(MEMBERS)).unwrap_or_default();
        let mut members: Members = serde_json::from_str(&text).unwrap_or_default();
        members.addrs.truncate(MAX_REMEMBERED);
        members.addrs
    }

    /// Keeps `addrs` for the next run, in one step.
    ///
    /// # Errors
    /// If they cannot be written; what was kept before stays.
    pub(crate) fn remember(&self, addrs: &[std::net::SocketAddr]) -> anyhow::Result<()> {
        let addrs = addrs.iter().take(MAX_REMEMBERED).copied().collect();
        let text = serde_json::to_string(&Members { addrs })?;
        files::replace(&self.dir, MEMBERS, &text)
            .with_context(|| format!("cannot write {}", self.file(MEMBERS).display()))
    }

    /// The UDP port of the last run that was free to choose one; zero if there was none.
    pub(crate) fn port(&self) -> u16 {
        let text = fs::read_to_string(self.file(PORT)).unwrap_or_default();
        text.trim().parse().unwrap_or_default()
    }

    /// Keeps `port` for the next run.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn keep_port(&self, port: u16) -> anyhow::Result<()> {
        if self.port() == port {
            return Ok(());
        }
        files::replace(&self.dir, PORT, &format!("{port}\n"))
            .with_context(|| format!("cannot write {}", self.file(PORT).display()))
    }

    fn read(&self, name: &str) -> anyhow::Result<String> {
        let path = self.file(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn read_private(&self, name: &str) -> anyhow::Result<String> {
        let path = self.file(name);
        let mode = fs::metadata(&path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            bail!(
                "others may read {0}: run `chmod 600 {0}`, and replace the key if anyone did",
                path.display()
            );
        }
        self.read(name)
    }

    fn decode(&self, name: &str, text: &str) -> anyhow::Result<[u8; 32]> {
        files::decode_key(text).ok_or_else(|| {
            anyhow!(
                "{} is damaged: put back a copy, or start again in another --home",
                self.file(name).display()
            )
        })
    }
}

#[cfg(test)]
mod tests;
