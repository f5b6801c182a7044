//! Sessions of browsers.

use crate::rig::{PASSWORD, Rig};
use floodplain_access::{Caller, Change, Role, SESSION_IDLE_MAX, SESSION_TIME_MAX};
use std::time::Duration;

#[tokio::test]
async fn a_session_is_its_user_until_it_ends() {
    let (mut rig, anna) = Rig::claimed().await;
    let session = rig.registry.start_session(&anna).await.unwrap();
    assert_eq!(rig.registry.by_session(session.reveal()).await.unwrap(), Some(anna.clone()));
    for other in ["", "x", &session.reveal()[1..], &session.reveal().to_ascii_uppercase(), "' OR 1=1 --"] {
        assert_eq!(rig.registry.by_session(other).await.unwrap(), None, "{other}");
    }
    rig.reopen().await;
    assert_eq!(rig.registry.by_session(session.reveal()).await.unwrap(), Some(anna.clone()));
    rig.registry.end_session(session.reveal()).await.unwrap();
    assert_eq!(rig.registry.by_session(session.reveal()).await.unwrap(), None);
    rig.registry.end_session(session.reveal()).await.unwrap();
    assert!(rig.registry.start_session(&Caller::unclaimed()).await.is_err());
}

#[tokio::test]
async fn idle_and_old_sessions_end() {
    let (rig, anna) = Rig::claimed().await;
    let idle = rig.registry.start_session(&anna).await.unwrap();
    rig.clock.advance(SESSION_IDLE_MAX);
    assert_eq!(rig.registry.by_session(idle.reveal()).await.unwrap(), None);
    // Used again and again, it lives for its whole time and no longer.
    let used = rig.registry.start_session(&anna).await.unwrap();
    let step = SESSION_IDLE_MAX - Duration::from_secs(3600);
    let mut lived = Duration::ZERO;
    while lived + step < SESSION_TIME_MAX {
        rig.clock.advance(step);
        lived += step;
        assert!(rig.registry.by_session(used.reveal()).await.unwrap().is_some(), "{lived:?}");
    }
    rig.clock.advance(SESSION_TIME_MAX - lived);
    assert_eq!(rig.registry.by_session(used.reveal()).await.unwrap(), None);
}

#[tokio::test]
async fn a_user_has_sixteen_at_most() {
    let (rig, anna) = Rig::claimed().await;
    let mut sessions = Vec::new();
    for _ in 0..18 {
        rig.clock.advance(Duration::from_secs(1));
        sessions.push(rig.registry.start_session(&anna).await.unwrap());
    }
    for (n, session) in sessions.iter().enumerate() {
        assert_eq!(rig.registry.by_session(session.reveal()).await.unwrap().is_some(), n >= 2, "{n}");
    }
}

#[tokio::test]
async fn a_new_password_ends_them_and_a_new_role_counts_at_once() {
    let (rig, anna) = Rig::claimed().await;
    rig.registry.add_user(&anna, "bert", PASSWORD, Role::Editor).await.unwrap();
    let bert = Caller { user: Some("bert".to_owned()), token: None, role: Role::Editor };
    let session = rig.registry.start_session(&bert).await.unwrap();
    rig.registry.change_user(&anna, "bert", Change { role: Some(Role::Viewer), password: None }).await.unwrap();
    let now = rig.registry.by_session(session.reveal()).await.unwrap().unwrap();
    assert_eq!((now.user.as_deref(), now.role), (Some("bert"), Role::Viewer));
    let change = Change { role: None, password: Some("a password of bert") };
    rig.registry.change_user(&anna, "bert", change).await.unwrap();
    assert_eq!(rig.registry.by_session(session.reveal()).await.unwrap(), None);

    let session = rig.registry.start_session(&bert).await.unwrap();
    rig.registry.remove_user(&anna, "bert").await.unwrap();
    assert_eq!(rig.registry.by_session(session.reveal()).await.unwrap(), None);
    // Nor does it come back with the name.
    rig.registry.add_user(&anna, "bert", PASSWORD, Role::Admin).await.unwrap();
    assert_eq!(rig.registry.by_session(session.reveal()).await.unwrap(), None);
}
