//! API tokens.

use crate::rig::{ALL, Rig};
use floodplain_access::{Error, Page, Role};
use std::time::Duration;

#[tokio::test]
async fn a_token_has_its_role_until_it_is_removed() {
    let (mut rig, anna) = Rig::claimed().await;
    for role in Role::ALL {
        let (token, secret) = rig.registry.add_token(&anna, " for Grafana ", role, None).await.unwrap();
        assert_eq!((token.name.as_str(), token.last_used, token.expires), ("for Grafana", None, None));
        rig.reopen().await;
        let caller = rig.registry.by_token(secret.reveal()).await.unwrap().unwrap();
        assert_eq!((caller.user, caller.token, caller.role), (None, Some(token.id.clone()), role));
        rig.registry.remove_token(&anna, &token.id).await.unwrap();
        assert_eq!(rig.registry.by_token(secret.reveal()).await.unwrap(), None);
        let gone = rig.registry.remove_token(&anna, &token.id).await;
        assert!(matches!(gone, Err(Error::TokenUnknown { .. })), "{gone:?}");
    }
    for noise in ["", "fp_", "fp_' OR 1=1 --", &format!("fp_{}", "x".repeat(43)), &"x".repeat(1 << 20)] {
        assert_eq!(rig.registry.by_token(noise).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_token_ends_when_it_expires() {
    let (rig, anna) = Rig::claimed().await;
    let now = floodplain_types::Clock::now(&*rig.clock);
    let past = rig.registry.add_token(&anna, "x", Role::Viewer, Some(now)).await;
    assert!(matches!(past, Err(Error::ExpiryPast)), "{past:?}");
    let expires = Some(now + Duration::from_secs(60));
    let (_, secret) = rig.registry.add_token(&anna, "x", Role::Viewer, expires).await.unwrap();
    rig.clock.advance(Duration::from_millis(59_999));
    assert!(rig.registry.by_token(secret.reveal()).await.unwrap().is_some());
    rig.clock.advance(Duration::from_millis(1));
    assert_eq!(rig.registry.by_token(secret.reveal()).await.unwrap(), None);
    assert_eq!(rig.registry.tokens(ALL).await.unwrap()[0].expires, expires);
}

#[tokio::test]
async fn uses_are_noted_to_a_minute() {
    let (rig, anna) = Rig::claimed().await;
    let (token, secret) = rig.registry.add_token(&anna, "x", Role::Viewer, None).await.unwrap();
    let used = async || {
        rig.registry.by_token(secret.reveal()).await.unwrap().unwrap();
        rig.registry.tokens(ALL).await.unwrap()[0].last_used.unwrap().since(token.created).as_secs()
    };
    assert_eq!(used().await, 0);
    rig.clock.advance(Duration::from_secs(59));
    assert_eq!(used().await, 0);
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(used().await, 60);
}

#[tokio::test]
async fn there_are_a_thousand_at_most_in_pages() {
    let (rig, anna) = Rig::claimed().await;
    for n in 0..1000 {
        rig.registry.add_token(&anna, &format!("token {n}"), Role::Viewer, None).await.unwrap();
    }
    let full = rig.registry.add_token(&anna, "one more", Role::Viewer, None).await;
    assert!(matches!(full, Err(Error::TooMany { limit: 1000, .. })), "{full:?}");
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = rig.registry.tokens(Page { after: &after, limit: 300 }).await.unwrap();
        let Some(last) = page.last() else { break };
        after.clone_from(&last.id);
        names.extend(page.into_iter().map(|token| token.name));
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 1000);
}
