//! File systems in files, and how to pull their plug.

use anyhow::{Context as _, ensure};
use std::{path::PathBuf, process::Command};

const IMAGE_BYTES: u64 = 1 << 30;

fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| format!("cannot start {program}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", args.join(" "), error.trim());
    Ok(())
}

/// An image of a file system, mounted; unmounted and removed when it is dropped.
pub(super) struct Image {
    dir: tempfile::TempDir,
    mounted: bool,
}

impl Image {
    pub(super) fn make(fs: &str) -> anyhow::Result<Self> {
        let image = Self { dir: tempfile::tempdir()?, mounted: false };
        std::fs::File::create(image.file())?.set_len(IMAGE_BYTES)?;
        std::fs::create_dir(image.mount_point())?;
        let force = if fs == "xfs" { "-qf" } else { "-qF" };
        run(&format!("mkfs.{fs}"), &[force, &image.file().to_string_lossy()])?;
        Ok(image)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    pub(super) fn mount_point(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub(super) fn mount(&mut self) -> anyhow::Result<()> {
        run("mount", &["-o", "loop", &self.file().to_string_lossy(), &self.mount_point().to_string_lossy()])?;
        self.mounted = true;
        Ok(())
    }

    /// Stops the file system at once, without letting it write its own log.
    pub(super) fn pull_the_plug(&self) -> anyhow::Result<()> {
        shutdown::now(&std::fs::File::open(self.mount_point())?).context("cannot shut the file system down")
    }

    pub(super) fn unmount(&mut self) -> anyhow::Result<()> {
        run("umount", &[&self.mount_point().to_string_lossy()])?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = self.unmount()
        {
            eprintln!("powercut: {error:#}");
        }
    }
}

pub(super) fn can_run(file_systems: &[&str]) -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    ensure!(uid == Some("0"), "needs root");
    for fs in file_systems {
        let mut image = Image::make(fs)?;
        image.mount().context("needs loop devices")?;
        image.pull_the_plug()?;
        image.unmount()?;
    }
    Ok(())
}

#[expect(unsafe_code, reason = "std has no way to shut a file system down")]
mod shutdown {
    use std::{fs::File, io, os::fd::AsRawFd as _};

    /// `XFS_IOC_GOINGDOWN` and `EXT4_IOC_SHUTDOWN`: `_IOR('X', 125, __u32)`.
    const GOING_DOWN: libc::c_ulong = 0x8004_587d;
    /// Discard the journal too: only what was synced may be found later.
    const NO_LOG_FLUSH: u32 = 2;

    pub(super) fn now(mount_point: &File) -> io::Result<()> {
        let flags = NO_LOG_FLUSH;
        // SAFETY: the descriptor is open and the call reads one u32, which lives until it returns.
        let result = unsafe { libc::ioctl(mount_point.as_raw_fd(), GOING_DOWN, &raw const flags) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
