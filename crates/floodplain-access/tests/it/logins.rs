//! Setup, passwords, SCRAM.

use crate::rig::{ALL, HERE, PASSWORD, Rig};
use floodplain_access::{Caller, Change, Error, Role, TOKEN_PREFIX};
use std::net::IpAddr;

const PASSWORD_OF_BERT: &str = "a password of bert";

#[tokio::test]
async fn the_setup_link_works_once() {
    let mut rig = Rig::new().await;
    assert!(!rig.registry.is_claimed());
    let first = rig.registry.setup_token().unwrap();
    assert_eq!(first.reveal().len(), 43);
    // Each start draws another.
    rig.reopen().await;
    let token = rig.registry.setup_token().unwrap();
    assert_ne!(first, token);
    for wrong in ["", first.reveal(), "x", &token.reveal()[1..]] {
        let refused = rig.registry.setup(wrong, "anna", PASSWORD).await;
        assert!(matches!(refused, Err(Error::SetupTokenWrong)), "{wrong}: {refused:?}");
    }
    // A mistake of the person costs nothing.
    let weak = rig.registry.setup(token.reveal(), "anna", "123456789012").await;
    assert!(matches!(weak, Err(Error::PasswordWeak { .. })), "{weak:?}");
    let name = rig.registry.setup(token.reveal(), "an na", PASSWORD).await;
    assert!(matches!(name, Err(Error::NameInvalid { .. })), "{name:?}");
    assert!(!rig.registry.is_claimed());

    let anna = rig.registry.setup(token.reveal(), "Anna", PASSWORD).await.unwrap();
    assert_eq!((anna.user.as_deref(), anna.role), (Some("anna"), Role::Admin));
    assert!(rig.registry.is_claimed() && rig.registry.setup_token().is_none());
    let again = rig.registry.setup(token.reveal(), "bert", PASSWORD).await;
    assert!(matches!(again, Err(Error::SetupDone)), "{again:?}");
    rig.reopen().await;
    assert!(rig.registry.is_claimed() && rig.registry.setup_token().is_none());
    assert_eq!(rig.registry.login("ANNA", PASSWORD, HERE).await.unwrap(), anna);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_setups_at_once_one_wins() {
    let rig = Rig::new().await;
    let token = rig.registry.setup_token().unwrap();
    let tries: Vec<_> = (0..8)
        .map(|n| {
            let (registry, token) = (rig.registry.clone(), token.clone());
            tokio::spawn(async move { registry.setup(token.reveal(), &format!("user-{n}"), PASSWORD).await })
        })
        .collect();
    let mut won = 0;
    for one in tries {
        match one.await.unwrap() {
            Ok(_) => won += 1,
            Err(Error::SetupDone) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((won, rig.registry.users(ALL).await.unwrap().len()), (1, 1));
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_open_door() {
    let mut done = 0;
    for polls in 0..40 {
        let rig = Rig::new().await;
        let token = rig.registry.setup_token().unwrap();
        {
            let mut setup = std::pin::pin!(rig.registry.setup(token.reveal(), "anna", PASSWORD));
            for _ in 0..polls {
                let step = tokio::time::timeout(std::time::Duration::from_millis(polls), setup.as_mut()).await;
                if step.is_ok() {
                    break;
                }
            }
        }
        // A user that is there is known at once, or as soon as the task has gone on.
        if !rig.registry.users(ALL).await.unwrap().is_empty() {
            done += 1;
            let known = async {
                while !rig.registry.is_claimed() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(30), known).await.expect("claimed");
        }
    }
    assert!(done > 0, "none has come so far");
}

#[tokio::test]
async fn before_the_setup_nobody_logs_in_or_adds() {
    let rig = Rig::new().await;
    let nobody = Caller::unclaimed();
    let login = rig.registry.login("anna", PASSWORD, HERE).await;
    assert!(matches!(login, Err(Error::SetupNeeded)), "{login:?}");
    let user = rig.registry.add_user(&nobody, "anna", PASSWORD, Role::Viewer).await;
    assert!(matches!(user, Err(Error::SetupNeeded)), "{user:?}");
    let token = rig.registry.add_token(&nobody, "x", Role::Admin, None).await;
    assert!(matches!(token, Err(Error::SetupNeeded)), "{token:?}");
}

#[tokio::test]
async fn wrong_logins_fail_alike_and_then_wait() {
    let (rig, _) = Rig::claimed().await;
    for (user, password) in
        [("anna", "a password of bert"), ("bert", PASSWORD), ("", ""), ("a:b", PASSWORD), ("anna", "\u{7}")]
    {
        let failed = rig.registry.login(user, password, HERE).await;
        assert!(matches!(failed, Err(Error::LoginFailed)), "{user}: {failed:?}");
    }
    for n in 2..5 {
        let failed = rig.registry.login("anna", &format!("guess number {n}"), HERE).await;
        assert!(matches!(failed, Err(Error::LoginFailed)), "{failed:?}");
    }
    // More of it, by whatever protocol, and even the right one waits, from wherever it comes.
    for _ in 0..6 {
        rig.registry.throttle().failed("Anna", HERE);
    }
    for from in [HERE, IpAddr::from([192, 0, 2, 1])] {
        let slow = rig.registry.login("anna", PASSWORD, from).await;
        let Err(Error::SlowDown { retry_after }) = slow else { panic!("{slow:?}") };
        assert!(retry_after.as_secs() >= 1);
    }
    // Nobody else does.
    let failed = rig.registry.login("carl", PASSWORD, HERE).await;
    assert!(matches!(failed, Err(Error::LoginFailed)), "{failed:?}");
}

#[tokio::test]
async fn a_login_is_noted_and_known() {
    let (rig, anna) = Rig::claimed().await;
    rig.clock.advance(std::time::Duration::from_secs(5));
    assert_eq!(rig.registry.login("anna", PASSWORD, HERE).await.unwrap(), anna);
    let users = rig.registry.users(ALL).await.unwrap();
    assert_eq!(users[0].last_login.unwrap().since(users[0].created).as_secs(), 5);
    // A change of the password counts at once, whatever is known.
    let change = Change { password: Some("another password"), role: None };
    rig.registry.change_user(&anna, "anna", change).await.unwrap();
    let failed = rig.registry.login("anna", PASSWORD, HERE).await;
    assert!(matches!(failed, Err(Error::LoginFailed)), "{failed:?}");
    rig.registry.login("anna", "another password", HERE).await.unwrap();
}

#[tokio::test]
async fn scram_has_the_same_users() {
    let (mut rig, anna) = Rig::claimed().await;
    let before = rig.registry.scram("Anna").await.unwrap();
    assert_eq!(before.caller.as_ref(), Some(&anna));
    assert!(before.verifier.iterations >= 4096 && before.verifier.salt.len() == 16);
    let change = Change { password: Some("another password"), role: Some(Role::Admin) };
    rig.registry.change_user(&anna, "anna", change).await.unwrap();
    let after = rig.registry.scram("anna").await.unwrap();
    assert_ne!(before.verifier, after.verifier);
    // Who is nobody looks like somebody, also after a restart.
    let nobody = rig.registry.scram("nobody").await.unwrap();
    assert!(nobody.caller.is_none() && nobody.verifier.iterations == after.verifier.iterations);
    rig.reopen().await;
    assert_eq!(rig.registry.scram("nobody").await.unwrap().verifier, nobody.verifier);
    assert_eq!(rig.registry.scram("NoBody").await.unwrap().verifier, nobody.verifier, "as one that is known");
    assert_eq!(rig.registry.scram("anna").await.unwrap().verifier, after.verifier);
    assert!(rig.registry.scram("no\0body").await.unwrap().caller.is_none());
}

#[tokio::test]
async fn a_proof_counts_as_a_password_does() {
    let (rig, _) = Rig::claimed().await;
    rig.clock.advance(std::time::Duration::from_secs(5));
    rig.registry.proven("Anna", HERE, true).await;
    let noted = &rig.registry.users(ALL).await.unwrap()[0];
    assert_eq!(noted.last_login.unwrap().since(noted.created).as_secs(), 5);
    // All that came before the first of them was checked are allowed, but not all are checked.
    let mut checked = 0;
    for _ in 0..256 {
        assert!(checked <= 5, "of {checked} wrong proofs all were checked");
        if rig.registry.may_prove("anna", HERE).is_ok() {
            rig.registry.proven("anna", HERE, false).await;
            checked += 1;
        }
    }
    let slow = rig.registry.login("anna", PASSWORD, HERE).await;
    assert!(matches!(slow, Err(Error::SlowDown { .. })), "{slow:?}");
}

#[tokio::test]
async fn the_epoch_changes_with_who_may_come_in() {
    let rig = Rig::new().await;
    let mut before = rig.registry.epoch();
    let mut has_changed = |registry: &floodplain_access::Registry| {
        let now = registry.epoch();
        std::mem::replace(&mut before, now) != now
    };
    let token = rig.registry.setup_token().unwrap();
    let anna = rig.registry.setup(token.reveal(), "anna", PASSWORD).await.unwrap();
    assert!(has_changed(&rig.registry));
    rig.registry.add_user(&anna, "bert", PASSWORD_OF_BERT, Role::Viewer).await.unwrap();
    rig.registry.login("bert", PASSWORD_OF_BERT, HERE).await.unwrap();
    assert!(!has_changed(&rig.registry));
    let change = Change { password: Some("another password"), role: None };
    rig.registry.change_user(&anna, "bert", change).await.unwrap();
    assert!(has_changed(&rig.registry));
    rig.registry.remove_user(&anna, "bert").await.unwrap();
    assert!(has_changed(&rig.registry));
}

#[tokio::test]
async fn no_secret_is_in_the_files_or_in_debug() {
    let (rig, anna) = Rig::claimed().await;
    let session = rig.registry.start_session(&anna).await.unwrap();
    let (_, token) = rig.registry.add_token(&anna, "grafana", Role::Viewer, None).await.unwrap();
    rig.registry.close().await;
    let mut bytes = Vec::new();
    for file in std::fs::read_dir(rig.folder.path()).unwrap() {
        bytes.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("grafana") && has("argon2id"));
    for secret in [PASSWORD, session.reveal(), token.reveal(), token.reveal().strip_prefix(TOKEN_PREFIX).unwrap()] {
        assert!(!has(secret), "{secret}");
    }
    let change = Change { password: Some(PASSWORD), role: None };
    assert!(!format!("{:?} {change:?} {token:?} {session:?}", rig.registry).contains(&token.reveal()[4..]));
    assert!(!format!("{change:?}").contains(PASSWORD));
}
