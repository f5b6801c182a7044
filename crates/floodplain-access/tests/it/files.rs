//! The file: its rights, a crash, other versions, other contents.

use crate::rig::{ALL, HERE, PASSWORD, Rig};
use floodplain_access::{OpenError, Registry, Role};
use sqlx::{Connection as _, SqliteConnection};
use std::os::unix::fs::PermissionsExt as _;

async fn statement(rig: &Rig, text: &'static str) {
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", rig.path().display())).await.unwrap();
    sqlx::query(text).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn only_its_owner_reads_it() {
    let (rig, _) = Rig::claimed().await;
    let mut files = 0;
    for file in std::fs::read_dir(rig.folder.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        files += 1;
    }
    assert!(files >= 2, "the database and its write-ahead log");
}

/// What the disk holds at any moment opens, with all that was answered.
#[tokio::test]
async fn a_crash_takes_nothing() {
    let (rig, anna) = Rig::claimed().await;
    for n in 0..10 {
        rig.registry.add_user(&anna, &format!("user-{n}"), PASSWORD, Role::Viewer).await.unwrap();
        let copy = tempfile::tempdir().unwrap();
        for name in ["registry.db", "registry.db-wal"] {
            std::fs::copy(rig.folder.path().join(name), copy.path().join(name)).unwrap();
        }
        let opened = Registry::open(&copy.path().join("registry.db"), rig.clock.clone()).await.unwrap();
        assert_eq!(opened.users(ALL).await.unwrap().len(), n + 2);
        opened.login("anna", PASSWORD, HERE).await.unwrap();
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_not_touched() {
    let (rig, _) = Rig::claimed().await;
    rig.registry.close().await;
    statement(
        &rig,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', TRUE, x'00', 0)",
    )
    .await;
    let before = std::fs::read(rig.path()).unwrap();
    let error = Registry::open(&rig.path(), rig.clock.clone()).await.unwrap_err();
    assert!(matches!(error, OpenError::NewerSchema { version: 9999, .. }), "{error:?}");
    assert!(error.to_string().contains("newer version"), "{error}");
    assert_eq!(std::fs::read(rig.path()).unwrap(), before);
}

#[tokio::test]
async fn what_is_no_registry_is_refused_and_not_touched() {
    let rig = Rig::new().await;
    for (name, bytes) in
        [("text", &b"this is not a database, and long enough to be one".repeat(100)[..]), ("zeros", &[0; 8192])]
    {
        let path = rig.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = Registry::open(&path, rig.clock.clone()).await.unwrap_err();
        assert!(matches!(error, OpenError::Open { .. }), "{name}: {error:?}");
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}");
    }
}

#[tokio::test]
async fn a_changed_migration_is_refused() {
    let rig = Rig::new().await;
    rig.registry.close().await;
    statement(&rig, "UPDATE _sqlx_migrations SET checksum = x'00'").await;
    let error = Registry::open(&rig.path(), rig.clock.clone()).await.unwrap_err();
    assert!(matches!(error, OpenError::Migrate { .. }), "{error:?}");
}
