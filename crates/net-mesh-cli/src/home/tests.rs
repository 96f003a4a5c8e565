use std::os::unix::fs::symlink;

use super::*;

fn material() -> Material {
    Material::Secret { secret: MeshSecret::from_bytes([1; 32]), key: NodeKey::from_bytes([2; 32]) }
}

fn config() -> Config {
    Config { name: "n".into(), bootstrap: vec!["203.0.113.7:4433".into(), "mesh.example:4433".into()] }
}

fn at(dir: &Path) -> Home {
    Home::locate(Some(dir), None).unwrap()
}

#[test]
fn the_command_line_beats_the_environment_and_an_empty_variable_is_none() {
    let (given, set) = (Path::new("given"), Some(OsString::from("set")));
    assert_eq!(Home::locate(Some(given), set.clone()).unwrap().dir(), given);
    assert_eq!(Home::locate(None, set).unwrap().dir(), Path::new("set"));
    let default = Home::locate(None, None).unwrap();
    assert!(default.dir().ends_with("net-mesh"), "{default:?}");
    assert_eq!(Home::locate(None, Some(OsString::new())).unwrap().dir(), default.dir());
}

#[test]
fn a_command_to_copy_names_the_home_that_was_chosen() {
    assert_eq!(at(Path::new("/srv/beta")).command("up"), "net-mesh --home /srv/beta up");
    assert_eq!(at(Path::new("my beta")).command("up"), "net-mesh --home 'my beta' up");
    assert_eq!(Home::locate(None, Some("b".into())).unwrap().command("up"), "net-mesh --home b up");
    assert_eq!(Home::locate(None, None).unwrap().command("up"), "net-mesh up");
}

#[test]
fn a_home_that_may_not_be_read_is_told_from_none() {
    use std::io::ErrorKind;
    let tmp = tempfile::tempdir().unwrap();
    let home = at(tmp.path());
    assert!(!home.exists().unwrap());
    let error = home.told(Err(ErrorKind::PermissionDenied.into())).unwrap_err().to_string();
    assert_eq!(error, format!("may not read {}: run this as the user that owns it", tmp.path().display()));
    // A file where the directory should be is an error that is not of permissions.
    let file = tmp.path().join("file");
    fs::write(&file, "").unwrap();
    let error = at(&file).require().unwrap_err().to_string();
    assert!(error.contains("cannot read") && !error.contains("init"), "{error}");
}

#[test]
fn a_directory_that_cannot_be_written_says_who_must_be_able_to() {
    use std::io::ErrorKind;
    for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
        assert!(unwritten(&kind.into()).ends_with("must be writable for the user that runs the node"));
    }
    assert!(!unwritten(&ErrorKind::StorageFull.into()).contains("writable"));
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_new_home_can_be_read_back_and_by_its_owner_only() {
    let tmp = tempfile::tempdir().unwrap();
    let home = at(&tmp.path().join("deep/er"));
    home.create(&material(), &config()).unwrap();

    assert_eq!(mode(home.dir()), 0o700);
    assert_eq!(names(home.dir()), ["config.toml", "lock", "mesh.secret", "node.key"]);
    for name in names(home.dir()) {
        assert_eq!(mode(&home.file(&name)), 0o600, "{name}");
    }
    let Material::Secret { secret, key } = home.material().unwrap() else { panic!("wrong kind") };
    assert_eq!((secret.as_bytes(), key.as_bytes()), (&[1; 32], &[2; 32]));
    assert_eq!(home.config().unwrap(), config());
}

#[test]
fn certificates_come_back_as_they_went_in() {
    let tmp = tempfile::tempdir().unwrap();
    let home = at(tmp.path());
    let key = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    home.create(&Material::Pki { ca: "ca".into(), cert: "cert".into(), key: key.clone() }, &config())
        .unwrap();
    let Material::Pki { ca, cert, key: read } = home.material().unwrap() else { panic!("wrong kind") };
    assert_eq!((ca.as_str(), cert.as_str(), read), ("ca", "cert", key));
}

#[test]
fn nothing_is_ever_overwritten() {
    for name in ["node.key", "mesh.secret", "config.toml", "ca.pem"] {
        let tmp = tempfile::tempdir().unwrap();
        let home = at(tmp.path());
        fs::write(home.file(name), "precious").unwrap();
        let error = home.create(&material(), &config()).unwrap_err().to_string();
        assert!(error.contains("never overwritten"), "{error}");
        assert_eq!(fs::read_to_string(home.file(name)).unwrap(), "precious");
        assert_eq!(names(home.dir()).iter().filter(|n| *n != "lock").count(), 1);
    }
}

#[test]
fn even_a_dangling_link_is_not_written_through() {
    let tmp = tempfile::tempdir().unwrap();
    let home = at(&tmp.path().join("home"));
    fs::create_dir(home.dir()).unwrap();
    symlink(tmp.path().join("elsewhere"), home.file("node.key")).unwrap();
    assert!(home.create(&material(), &config()).is_err());
    assert!(!tmp.path().join("elsewhere").exists());
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let tmp = tempfile::tempdir().unwrap();
    let home = at(&tmp.path().join("home"));
    fs::create_dir(home.dir()).unwrap();
    // A directory in the way of the last temporary name makes writing fail after the others succeeded.
    fs::create_dir(home.file("node.key.unfinished")).unwrap();
    assert!(home.create(&material(), &config()).is_err());
    assert_eq!(names(home.dir()), ["lock", "node.key.unfinished"]);
}

#[test]
fn a_key_that_others_may_read_is_refused_with_the_cure() {
    for name in ["node.key", "mesh.secret"] {
        let tmp = tempfile::tempdir().unwrap();
        let home = at(tmp.path());
        home.create(&material(), &config()).unwrap();
        fs::set_permissions(home.file(name), fs::Permissions::from_mode(0o640)).unwrap();
        let error = home.material().err().unwrap().to_string();
        assert!(error.contains(&format!("chmod 600 {}", home.file(name).display())), "{error}");
    }
}

#[test]
fn a_damaged_key_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    let home = at(tmp.path());
    home.create(&material(), &config()).unwrap();
    fs::write(home.file("mesh.secret"), "abc\n").unwrap();
    let error = home.material().err().unwrap().to_string();
    assert!(error.contains("mesh.secret is damaged"), "{error}");
}

#[test]
fn one_home_has_one_node() {
    let tmp = tempfile::tempdir().unwrap();
    let home = at(tmp.path());
    let lock = home.lock().unwrap();
    let error = home.lock().unwrap_err().to_string();
    assert!(error.contains("already running"), "{error}");
    assert!(home.is_locked());
    drop(lock);
    assert!(!home.is_locked());
    home.lock().unwrap();
}

#[test]
fn settings_that_cannot_be_used_are_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let home = at(tmp.path());
    for bad in
        ["name = \"\"", "name = \"a\"\nbootstrap = [\"nowhere\"]", "name = \"a\"\nnames = 3", "name = "]
    {
        fs::write(home.file("config.toml"), bad).unwrap();
        assert!(home.config().is_err(), "{bad}");
    }
    fs::write(home.file("config.toml"), "name = \"a\"\nbootstrap = [\"foo\"]").unwrap();
    let error = home.config().unwrap_err().to_string();
    assert!(error.contains("`foo` has no port"), "{error}");
    fs::remove_file(home.file("config.toml")).unwrap();
    let error = home.config().unwrap_err().to_string();
    assert!(error.contains("put back a copy") && error.contains("name = \"NAME\""), "{error}");
}

#[test]
fn what_is_remembered_is_bounded_and_damage_to_it_is_harmless() {
    let tmp = tempfile::tempdir().unwrap();
    let home = at(tmp.path());
    assert!(home.remembered().is_empty());
    let addrs: Vec<std::net::SocketAddr> = (1..100).map(|port| ([203, 0, 113, 7], port).into()).collect();
    home.remember(&addrs).unwrap();
    assert_eq!(home.remembered(), addrs[..MAX_REMEMBERED]);
    assert_eq!(names(home.dir()), ["members.json"]);
    fs::write(home.file("members.json"), "{").unwrap();
    assert!(home.remembered().is_empty());
}

#[test]
fn the_port_of_the_last_run_is_kept_and_damage_to_it_is_harmless() {
    let tmp = tempfile::tempdir().unwrap();
    let home = at(tmp.path());
    assert_eq!(home.port(), 0);
    home.keep_port(51_820).unwrap();
    assert_eq!((home.port(), names(home.dir())), (51_820, vec!["port".to_owned()]));
    for damaged in ["", "70000", "-1", "4433 4434", "\u{fffd}"] {
        fs::write(home.file("port"), damaged).unwrap();
        assert_eq!(home.port(), 0, "{damaged}");
    }
}
