//! Users and the last admin.

use crate::rig::{ALL, PASSWORD, Rig};
use floodplain_access::{Change, Error, Page, Role};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[tokio::test]
async fn users_come_change_and_go() {
    let (rig, anna) = Rig::claimed().await;
    let added = rig.registry.add_user(&anna, "Bert", PASSWORD, Role::Viewer).await.unwrap();
    assert_eq!((added.name.as_str(), added.role, added.last_login), ("bert", Role::Viewer, None));
    let again = rig.registry.add_user(&anna, "BERT", PASSWORD, Role::Admin).await;
    assert!(matches!(again, Err(Error::UserExists { .. })), "{again:?}");
    let weak = rig.registry.add_user(&anna, "carl", "short", Role::Admin).await;
    assert!(matches!(weak, Err(Error::PasswordWeak { .. })), "{weak:?}");
    let page = rig.registry.users(Page { after: "anna", limit: 1 }).await.unwrap();
    assert_eq!(page, [added]);
    for unknown in ["carl", "", "a b"] {
        let change = Change { role: Some(Role::Admin), password: None };
        let changed = rig.registry.change_user(&anna, unknown, change).await;
        assert!(matches!(changed, Err(Error::UserUnknown { .. })), "{changed:?}");
        let removed = rig.registry.remove_user(&anna, unknown).await;
        assert!(matches!(removed, Err(Error::UserUnknown { .. })), "{removed:?}");
    }
    let weak =
        rig.registry.change_user(&anna, "bert", Change { role: Some(Role::Admin), password: Some("short") }).await;
    assert!(matches!(weak, Err(Error::PasswordWeak { .. })), "{weak:?}");
    assert_eq!(rig.registry.users(ALL).await.unwrap()[1].role, Role::Viewer);
    rig.registry.remove_user(&anna, "Bert").await.unwrap();
    assert_eq!(rig.registry.users(ALL).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_last_admin_stays() {
    let (rig, anna) = Rig::claimed().await;
    rig.registry.add_user(&anna, "bert", PASSWORD, Role::Editor).await.unwrap();
    let refused = rig.registry.remove_user(&anna, "anna").await;
    assert!(matches!(refused, Err(Error::LastAdmin { .. })), "{refused:?}");
    let demoted = rig.registry.change_user(&anna, "anna", Change { role: Some(Role::Editor), password: None }).await;
    assert!(matches!(demoted, Err(Error::LastAdmin { .. })), "{demoted:?}");
    // The same role and a new password are fine.
    let change = Change { role: Some(Role::Admin), password: Some("another password") };
    rig.registry.change_user(&anna, "anna", change).await.unwrap();
    rig.registry.change_user(&anna, "bert", Change { role: Some(Role::Admin), password: None }).await.unwrap();
    rig.registry.remove_user(&anna, "anna").await.unwrap();
}

/// Two admins remove each other, or demote each other, at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn one_admin_is_left_whoever_is_faster() {
    let (rig, anna) = Rig::claimed().await;
    rig.registry.add_user(&anna, "bert", PASSWORD, Role::Admin).await.unwrap();
    for _ in 0..50 {
        let tasks: Vec<_> = ["anna", "bert"]
            .map(|user| {
                let (registry, by) = (rig.registry.clone(), anna.clone());
                tokio::spawn(async move {
                    registry.change_user(&by, user, Change { role: Some(Role::Viewer), password: None }).await
                })
            })
            .into();
        let mut done = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(()) => done += 1,
                Err(Error::LastAdmin { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(done, 1);
        for user in ["anna", "bert"] {
            rig.registry.change_user(&anna, user, Change { role: Some(Role::Admin), password: None }).await.unwrap();
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8, Role),
    Role(u8, Role),
    Remove(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let role = || prop::sample::select(&Role::ALL[..]);
    prop_oneof![
        2 => (0..4_u8, role()).prop_map(|(user, role)| Step::Add(user, role)),
        4 => (0..4_u8, role()).prop_map(|(user, role)| Step::Role(user, role)),
        3 => (0..4_u8).prop_map(Step::Remove),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    /// Against a map that follows the rules.
    #[test]
    fn users_are_as_a_map_of_them(steps in prop::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut rig, anna) = Rig::claimed().await;
            let mut model = BTreeMap::from([("anna".to_owned(), Role::Admin)]);
            let name = |user: u8| if user == 0 { "anna".to_owned() } else { format!("user-{user}") };
            for step in steps {
                let admins = model.values().filter(|role| **role == Role::Admin).count();
                let is_last = |user: &str| admins == 1 && model.get(user) == Some(&Role::Admin);
                match step {
                    Step::Add(user, role) => {
                        let user = name(user);
                        match rig.registry.add_user(&anna, &user, PASSWORD, role).await {
                            Ok(_) => assert_eq!(model.insert(user, role), None),
                            Err(Error::UserExists { .. }) => assert!(model.contains_key(&user)),
                            Err(other) => panic!("{other}"),
                        }
                    }
                    Step::Role(user, role) => {
                        let (user, change) = (name(user), Change { role: Some(role), password: None });
                        match rig.registry.change_user(&anna, &user, change).await {
                            Ok(()) => {
                                assert!(role == Role::Admin || !is_last(&user));
                                assert!(model.insert(user, role).is_some());
                            }
                            Err(Error::UserUnknown { .. }) => assert!(!model.contains_key(&user)),
                            Err(Error::LastAdmin { .. }) => assert!(role != Role::Admin && is_last(&user)),
                            Err(other) => panic!("{other}"),
                        }
                    }
                    Step::Remove(user) => {
                        let user = name(user);
                        match rig.registry.remove_user(&anna, &user).await {
                            Ok(()) => {
                                assert!(!is_last(&user));
                                assert!(model.remove(&user).is_some());
                            }
                            Err(Error::UserUnknown { .. }) => assert!(!model.contains_key(&user)),
                            Err(Error::LastAdmin { .. }) => assert!(is_last(&user)),
                            Err(other) => panic!("{other}"),
                        }
                    }
                    Step::Reopen => rig.reopen().await,
                }
                let users = rig.registry.users(ALL).await.unwrap();
                let users: BTreeMap<_, _> = users.into_iter().map(|user| (user.name, user.role)).collect();
                assert_eq!(users, model);
                assert!(rig.registry.is_claimed());
            }
        });
    }
}
