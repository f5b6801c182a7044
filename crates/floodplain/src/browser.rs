//! The reader's browser, where there is a desktop.

use std::{
    env, io,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
};

/// What opens an address in the browser that the reader prefers: that of desktops, then those of Debian.
const OPENERS: [&str; 3] = ["xdg-open", "sensible-browser", "x-www-browser"];

/// Whether somebody sits at a desktop who may want to see a page: not on a server, and not in an automatic build.
pub(crate) fn is_wanted() -> bool {
    is_wanted_with(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn is_wanted_with(is_set: impl Fn(&str) -> bool) -> bool {
    (is_set("DISPLAY") || is_set("WAYLAND_DISPLAY")) && !is_set("CI")
}

/// Opens `url`. That it cannot is no fault: who calls has printed the address.
pub(crate) fn open(url: &str) {
    for opener in OPENERS {
        let child = Command::new(opener)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is meant for us: a browser that has begun with this page stays.
            .process_group(0)
            .spawn();
        match child {
            // It may be the browser itself, and then ends with it; somebody has to wait for that.
            Ok(mut child) => return drop(thread::spawn(move || child.wait())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_wanted_on_a_desktop_alone() {
        for (set, wanted) in [
            (&["DISPLAY"][..], true),
            (&["WAYLAND_DISPLAY"], true),
            (&[], false),
            (&["TERM", "HOME"], false),
            (&["DISPLAY", "CI"], false),
        ] {
            assert_eq!(is_wanted_with(|name| set.contains(&name)), wanted, "{set:?}");
        }
    }
}
