//! The migrations and all statements of the registry on PostgreSQL, which scale-out will use.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// A server of its own, reached by a socket in its folder.
struct Postgres {
    folder: TempDir,
    server: Child,
}

/// The programs of the newest version that Debian's package has installed.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is missing: cargo xtask tools installs it");
    let versions = versions.map(|version| version.unwrap().path());
    let newest = versions.max_by_key(|path| path.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap_or(0));
    newest.expect("a version").join("bin")
}

/// As the user `postgres` where we are root, whom PostgreSQL does not run for; it ends when we do.
fn command(folder: &Path, program: &str) -> Command {
    let is_root = folder.metadata().unwrap().uid() == 0 || fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut command = Command::new("setpriv");
    if is_root {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    // Its messages are read, so they are in one language.
    command.arg("--pdeathsig=KILL").arg(programs().join(program)).current_dir(folder).env("LC_ALL", "C");
    command
}

impl Postgres {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            let id = |what: &str| {
                let id = Command::new("id").args([what, "postgres"]).output().unwrap().stdout;
                String::from_utf8(id).unwrap().trim().parse::<u32>().expect("the user postgres is there")
            };
            chown(path, Some(id("-u")), Some(id("-g"))).unwrap();
        }
        let data = path.join("data");
        let made = command(path, "initdb")
            .args(["--auth=trust", "--username=floodplain", "--no-sync", "--pgdata"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = command(path, "postgres")
            .args(["-c", "listen_addresses=", "-k"])
            .arg(path)
            .arg("-D")
            .arg(&data)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut postgres = Self { folder, server };
        // It says on its standard error when it is ready, or why it ends.
        let mut said = String::new();
        let mut lines = BufReader::new(postgres.server.stderr.take().unwrap());
        while !said.contains("database system is ready to accept connections") {
            assert!(lines.read_line(&mut said).unwrap() > 0, "PostgreSQL has ended: {said}");
        }
        // What it says later is nobody's to read, and must not make it wait.
        std::thread::spawn(move || io::copy(&mut lines, &mut io::sink()));
        postgres
    }

    fn run(&self, sql: &str) -> Result<String, String> {
        let psql = Command::new("psql")
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "floodplain", "-d", "postgres", "-h"])
            .arg(self.folder.path())
            .args(["-c", sql])
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if psql.status.success() { Ok(text(&psql.stdout)) } else { Err(text(&psql.stderr)) }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.server.kill().and_then(|()| self.server.wait()).map(drop).unwrap_or_default();
    }
}

/// What stands between quotes in the sources and is SQL.
fn statements() -> Vec<String> {
    let mut found = Vec::new();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let quoted = text.split('"').skip(1).step_by(2);
        let is_sql =
            |text: &&str| ["SELECT ", "INSERT ", "UPDATE ", "DELETE "].iter().any(|verb| text.starts_with(verb));
        found.extend(quoted.filter(is_sql).map(str::to_owned));
    }
    found
}

#[test]
fn postgresql_runs_the_migrations_and_understands_all_statements() {
    let postgres = Postgres::start();
    let mut migrations: Vec<PathBuf> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    migrations.sort();
    for migration in migrations {
        let done = postgres.run(&fs::read_to_string(&migration).unwrap());
        assert_eq!(done, Ok(String::new()), "{}", migration.display());
    }
    let statements = statements();
    assert!(statements.len() > 15, "only {} statements were found", statements.len());
    for statement in statements {
        let prepared = postgres.run(&format!("PREPARE statement AS {statement}"));
        assert_eq!(prepared, Ok(String::new()), "{statement}");
    }
    // What the database must hold: roles, and what goes with a user.
    let user = "INSERT INTO users (name, role, password, scram, created) VALUES ('a', 'ROLE', '', '', 0)";
    assert!(postgres.run(&user.replace("ROLE", "king")).unwrap_err().contains("violates check constraint"));
    let session = "INSERT INTO sessions (hash, user_name, created, last_used) VALUES ('h', 'a', 0, 0)";
    assert!(postgres.run(session).unwrap_err().contains("violates foreign key constraint"));
    let all = format!("{}; {session}; DELETE FROM users; SELECT count(*) FROM sessions", user.replace("ROLE", "admin"));
    assert_eq!(postgres.run(&all), Ok("0\n".to_owned()));
}
