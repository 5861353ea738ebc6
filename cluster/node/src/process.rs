//! One run of a container as a process group that outlives mizzen.
//!
//! Between mizzen and the command stands a few lines of `sh`. It claims the run by creating the
//! `pid` file, which only one process ever can; then it runs the command, writes how it ended to
//! `exit`, and kills what is left of the group, itself included. So, whenever mizzen dies:
//!
//! * no `pid` file: the command has not run, and starting it is safe. Should a shim of before still
//!   be on its way, one of the two loses the claim and runs nothing.
//! * `pid` file, no `exit`: the command runs, if that process still does; else it was lost.
//! * `exit` file: it ended, with that code.
//!
//! Invariant: a run's command is executed at most once.
//!
//! Not here: containment. A process that leaves its group (`setsid`) leaves our sight.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use tokio::{process::Child, sync::oneshot};

use crate::paths::RunPaths;

/// `$1` is the pid file, `$2` the exit file, `$3` this boot, the rest the command. It reads nothing:
/// shells read a byte at a time. Its own stderr is not the container's: shells like to remark on how
/// their children died.
const SHIM: &str = r#"
p=$1 e=$2 b=$3; shift 3
set -C
{ echo "$b $$" >"$p"; } 2>/dev/null || exit 125
set +C
trap : HUP INT QUIT USR1 USR2 PIPE ALRM TERM
( exec "$@" 2>&1 )
r=$?
{ echo "$r" >"$e"; } 2>/dev/null && kill -9 0
exit "$r"
"#;

/// The variable by which a pod's processes are known, whatever became of their group.
pub(crate) const POD_UID: &str = "MIZZEN_POD_UID";

/// A command, ready to run.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// The file to execute, by its full path.
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: PathBuf,
}

/// Who claimed a run: a process, told from later ones with the same id by the pod it is of and the
/// group it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    boot: String,
    pid: i32,
    uid: String,
}

/// What the files of a run say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing was executed, and no one who still might is left.
    Unclaimed,
    /// Its process is alive.
    Running(Claim),
    /// It ended with this code.
    Ended(i32),
    /// It was started and is gone, and how it ended is not known.
    Lost(Claim),
}

/// A process that is waited for.
#[derive(Debug)]
pub(crate) enum Watched {
    /// Our own child, and the id it has had from the start.
    Child(Child, i32),
    /// A process that an earlier mizzen started.
    Adopted(oneshot::Receiver<()>),
}

/// How a shim that is our child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShimEnd {
    pid: i32,
    code: i32,
}

/// Starts a run. Its output is appended to its log.
///
/// Blocks for as long as the system takes to start a process.
pub(crate) fn spawn(launch: &Launch, run: &RunPaths) -> io::Result<Watched> {
    fs::create_dir_all(run.dir())?;
    let log = OpenOptions::new().create(true).append(true).open(run.log())?;
    let mut command = tokio::process::Command::new("/bin/sh");
    command.args(["-c", SHIM, "mizzen-run"]).arg(run.pid()).arg(run.exit()).arg(this_boot()?);
    let (named, odd): (Vec<_>, Vec<_>) =
        launch.env.iter().partition(|(name, _)| is_shell_name(name));
    if !odd.is_empty() {
        // Kubernetes allows names such as `my.var`, which a shell would not hand on.
        command.arg("/usr/bin/env").args(odd.iter().map(|(name, value)| format!("{name}={value}")));
    }
    command.arg(&launch.program).args(&launch.args).env_clear();
    command.envs(named.iter().map(|(name, value)| (name, value)));
    command.current_dir(&launch.cwd).process_group(0);
    command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    let child = command.spawn()?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default();
    Ok(Watched::Child(child, pid))
}

fn this_boot() -> io::Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

fn is_shell_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

impl Watched {
    /// Waits until the shim has ended. Cancel-safe.
    ///
    /// Returns how, where it is our child, and `None` where it was adopted; what counts is the exit
    /// file, this is for when there is none.
    pub(crate) async fn ended(&mut self) -> Option<ShimEnd> {
        match self {
            Self::Child(child, pid) => {
                let status = child.wait().await.ok()?;
                let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal))?;
                Some(ShimEnd { pid: *pid, code })
            }
            Self::Adopted(ended) => {
                // The sender is dropped when the process ends, and says nothing.
                let _ = ended.await;
                None
            }
        }
    }

    /// The process group, while the shim has not been waited for.
    fn group(&self, run: &RunPaths) -> Option<Pid> {
        match self {
            // An unreaped child's id cannot have been given to anyone else.
            Self::Child(child, pid) => child.id().and_then(|_| Pid::from_raw(*pid)),
            Self::Adopted(_) => Claim::read(run).ok().flatten().filter(Claim::is_alive)?.group(),
        }
    }

    /// Sends a signal to the whole group. A group that is gone is fine.
    pub(crate) fn signal(&self, run: &RunPaths, signal: Signal) {
        if let Some(group) = self.group(run) {
            let _ = kill_process_group(group, signal);
        }
    }
}

/// How a run ended, once [`Watched::ended`] has returned: what its exit file says, or that it was
/// killed. Leaves an exit file either way, for those who read the log.
///
/// `None` if this shim never had the run: then [`look`] says who has.
pub(crate) fn settle(run: &RunPaths, shim: Option<ShimEnd>) -> Option<i32> {
    if let Some(code) = read_exit(run) {
        return Some(code);
    }
    let claim = Claim::read(run).ok().flatten();
    match (&claim, shim) {
        (Some(claim), Some(shim)) if claim.pid != shim.pid => return None,
        (None, Some(ShimEnd { code: UNCLAIMED, .. })) => return None,
        (Some(claim), _) => claim.kill_rest(),
        (None, _) => {}
    }
    let code = shim.map_or(KILLED, |shim| shim.code);
    write_exit(run, code);
    Some(code)
}

/// The shim could not claim the run: someone else has it, or the disk is full.
const UNCLAIMED: i32 = 125;
/// What a shell reports for a process that SIGKILL ended.
pub(crate) const KILLED: i32 = 137;

/// Marks a run as ended, for those who follow its log. Best effort: they also notice when the
/// directory goes.
pub(crate) fn write_exit(run: &RunPaths, code: i32) {
    let file = OpenOptions::new().write(true).create_new(true).open(run.exit());
    let _ = file.and_then(|mut file| file.write_all(format!("{code}\n").as_bytes()));
}

/// The code in the exit file; nothing while it is being written.
pub(crate) fn read_exit(run: &RunPaths) -> Option<i32> {
    fs::read_to_string(run.exit()).ok()?.strip_suffix('\n')?.parse().ok()
}

/// What the files of a run say, after making sure that an unclaimed run stays so: its directory is
/// moved away, so that a shim that is still on its way finds nowhere to put its claim.
pub(crate) fn look(run: &RunPaths) -> io::Result<Found> {
    if !run.dir().exists() {
        return Ok(Found::Unclaimed);
    }
    if !run.pid().exists() && !run.exit().exists() {
        let aside = run.dir().with_extension("aside");
        let _ = fs::remove_dir_all(&aside);
        fs::rename(run.dir(), &aside)?;
        if !aside.join("pid").exists() {
            fs::remove_dir_all(&aside)?;
            return Ok(Found::Unclaimed);
        }
        fs::rename(&aside, run.dir())?;
    }
    if let Some(code) = read_exit(run) {
        return Ok(Found::Ended(code));
    }
    let claim = Claim::read_whole(run)?;
    if claim.is_alive() {
        return Ok(Found::Running(claim));
    }
    // It may have ended between the two looks.
    Ok(read_exit(run).map_or(Found::Lost(claim), Found::Ended))
}

impl Claim {
    fn read(run: &RunPaths) -> io::Result<Option<Self>> {
        let text = fs::read_to_string(run.pid())?;
        Ok(text.strip_suffix('\n').and_then(|text| Self::parse(text, run.uid())))
    }

    /// Waits out the moment between the file's creation and its content. A file that stays empty
    /// is a claim by someone who died in that moment.
    fn read_whole(run: &RunPaths) -> io::Result<Self> {
        for _ in 0..50 {
            if let Some(claim) = Self::read(run)? {
                return Ok(claim);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Self { boot: String::new(), pid: 0, uid: run.uid().to_owned() })
    }

    /// The boot's id and the process's; what else was written there at one time is passed over.
    fn parse(text: &str, uid: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (boot, pid) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        Some(Self { boot, pid, uid: uid.to_owned() })
    }

    fn group(&self) -> Option<Pid> {
        Pid::from_raw(self.pid)
    }

    /// Whether the process that claimed the run still runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.is_of_this_boot()
            && stat_of(self.pid).is_some_and(|s| s.group == self.pid && !s.is_dead())
            && has_env(self.pid, &self.mark())
    }

    fn is_of_this_boot(&self) -> bool {
        this_boot().is_ok_and(|id| id == self.boot)
    }

    /// What a process of the pod has in its environment.
    fn mark(&self) -> String {
        format!("{POD_UID}={}", self.uid)
    }

    /// Takes up the process. `None` if it has ended.
    pub(crate) fn adopt(&self) -> io::Result<Option<Watched>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // Looked at again now that the descriptor holds on to whoever has that id.
            Ok(fd) if self.is_alive() => Ok(Some(Watched::Adopted(wait_on_thread(fd)?))),
            Ok(_) | Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Kills what is left of the group of a shim that is gone. Its id may since have become someone
    /// else's, so only processes that carry the pod's uid are touched.
    pub(crate) fn kill_rest(&self) {
        if !self.is_of_this_boot() || self.pid == 0 {
            return;
        }
        let mark = self.mark();
        let pids = fs::read_dir("/proc").into_iter().flatten();
        for pid in pids.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok()) {
            let ours = stat_of(pid).is_some_and(|s| s.group == self.pid) && has_env(pid, &mark);
            if let Some(pid) = Pid::from_raw(pid).filter(|_| ours) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Waits for a process that is not our child. A thread does, as adopted ones are few, and a
/// descriptor can only be handed to the runtime with `unsafe`.
fn wait_on_thread(pidfd: OwnedFd) -> io::Result<oneshot::Receiver<()>> {
    let (ends, ended) = oneshot::channel();
    let wait = move || {
        let _ends: oneshot::Sender<()> = ends;
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        while poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
    };
    std::thread::Builder::new().name("mizzen-adopted".into()).stack_size(64 * 1024).spawn(wait)?;
    Ok(ended)
}

fn has_env(pid: i32, mark: &str) -> bool {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ.split(|b| *b == 0).any(|entry| entry == mark.as_bytes())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: u8,
    group: i32,
}

impl Stat {
    fn is_dead(self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

fn stat_of(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (name) state ppid pgrp …`, of which the name may hold anything.
fn parse_stat(line: &str) -> Option<Stat> {
    let mut fields = line.get(line.rfind(')')? + 2..)?.split(' ');
    let state = *fields.next()?.as_bytes().first()?;
    Some(Stat { state, group: fields.nth(1)?.parse().ok()? })
}

/// Why a command cannot be run: what a shell would exit with, and one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CannotRun {
    pub(crate) code: i32,
    pub(crate) message: String,
}

impl CannotRun {
    /// 127: there is no such thing.
    pub(crate) fn missing(message: String) -> Self {
        Self { code: 127, message }
    }

    /// 126: there is, and it cannot be used.
    pub(crate) fn unusable(message: String) -> Self {
        Self { code: 126, message }
    }
}

/// Finds the file that a command names, as a shell would.
pub(crate) fn resolve(program: &str, path: &str, cwd: &Path) -> Result<PathBuf, CannotRun> {
    if program.is_empty() {
        return Err(CannotRun::missing("cannot run ``: the command is empty".into()));
    }
    if program.contains('/') {
        let file = cwd.join(program);
        return match kind_of(&file) {
            Kind::Executable => Ok(file),
            Kind::Missing => Err(CannotRun::missing(format!(
                "cannot run `{program}`: there is no such file on this machine"
            ))),
            Kind::Other(what) => {
                Err(CannotRun::unusable(format!("cannot run `{program}`: it is {what}")))
            }
        };
    }
    let mut found = None;
    for dir in path.split(':').filter(|dir| !dir.is_empty()) {
        let file = cwd.join(dir).join(program);
        match kind_of(&file) {
            Kind::Executable => return Ok(file),
            Kind::Other(what) => found = found.or(Some((file, what))),
            Kind::Missing => {}
        }
    }
    Err(match found {
        Some((file, what)) => {
            CannotRun::unusable(format!("cannot run `{program}`: `{}` is {what}", file.display()))
        }
        None => CannotRun::missing(format!(
            "cannot run `{program}`: it was not found in PATH `{path}`; install it on this machine or give its full path"
        )),
    })
}

enum Kind {
    Executable,
    Missing,
    Other(&'static str),
}

fn kind_of(file: &Path) -> Kind {
    match fs::metadata(file) {
        Err(_) => Kind::Missing,
        Ok(meta) if meta.is_dir() => Kind::Other("a directory"),
        Ok(_) => match rustix::fs::access(file, rustix::fs::Access::EXEC_OK) {
            Ok(()) => Kind::Executable,
            Err(_) => Kind::Other("not executable"),
        },
    }
}

/// Locks the node's directory for as long as the file is open.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::PodPaths;

    fn run(dir: &Path) -> RunPaths {
        PodPaths::new(dir, "ns", "uid-1").run("main", 0)
    }

    fn sh(script: &str, dir: &Path) -> Launch {
        let env = [("PATH", "/usr/bin:/bin"), (POD_UID, "uid-1"), ("my.var", "odd one")];
        Launch {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: env.map(|(k, v)| (k.into(), v.into())).to_vec(),
            cwd: dir.into(),
        }
    }

    async fn run_to_end(script: &str) -> (Option<i32>, String) {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path());
        let mut process = spawn(&sh(script, dir.path()), &run).unwrap();
        let shim = process.ended().await;
        (settle(&run, shim), fs::read_to_string(run.log()).unwrap())
    }

    #[tokio::test]
    async fn a_run_leaves_its_code_and_its_output() {
        #[rustfmt::skip]
        let cases = [
            // what the case shows           script                                  code        log
            ("success",                      "echo out",                             Some(0),    "out\n"),
            ("failure, both streams in order","echo a; echo b >&2; echo c; exit 3",  Some(3),    "a\nb\nc\n"),
            ("death by a signal",            "kill -TERM $$",                        Some(143),  ""),
            ("nothing to read",              "read x || echo eof",                   Some(0),    "eof\n"),
            ("a killed shim",                "kill -9 $PPID; sleep 60",              Some(137),  ""),
        ];
        for (shows, script, code, log) in cases {
            assert_eq!(run_to_end(script).await, (code, log.into()), "{shows}");
        }
    }

    #[tokio::test]
    async fn nothing_of_a_group_survives_its_command() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path());
        let script = "sleep 300 & echo $! >child; exit 0";
        let mut process = spawn(&sh(script, dir.path()), &run).unwrap();
        let shim = process.ended().await;
        assert_eq!(settle(&run, shim), Some(0));
        let child: i32 =
            fs::read_to_string(dir.path().join("child")).unwrap().trim().parse().unwrap();
        assert!(gone(child).await);
    }

    #[tokio::test]
    async fn a_variable_whose_name_no_shell_would_keep_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path());
        let env = Launch { program: "/usr/bin/env".into(), args: Vec::new(), ..sh("", dir.path()) };
        spawn(&env, &run).unwrap().ended().await;
        let log = fs::read_to_string(run.log()).unwrap();
        assert!(log.lines().any(|line| line == "my.var=odd one"), "{log}");
    }

    /// Killed processes are reaped by whoever inherits them, in their own time.
    async fn gone(pid: i32) -> bool {
        for _ in 0..500 {
            if stat_of(pid).is_none_or(Stat::is_dead) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        false
    }

    #[tokio::test]
    async fn sigterm_reaches_the_command_and_its_own_code_counts() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path());
        let script = "trap 'echo bye; exit 7' TERM; echo up >ready; while :; do sleep 0.01; done";
        let mut process = spawn(&sh(script, dir.path()), &run).unwrap();
        while !dir.path().join("ready").exists() {
            tokio::task::yield_now().await;
        }
        process.signal(&run, Signal::TERM);
        let shim = process.ended().await;
        assert_eq!(settle(&run, shim), Some(7));
        // The script's own shell may remark on its `sleep`, which got the signal too.
        assert!(fs::read_to_string(run.log()).unwrap().ends_with("bye\n"));
    }

    #[tokio::test]
    async fn of_two_starts_of_one_run_only_one_executes_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path());
        let launch = sh("echo ran >>ran; sleep 0.05", dir.path());
        let mut processes: Vec<_> = (0..8).map(|_| spawn(&launch, &run).unwrap()).collect();
        for process in &mut processes {
            process.ended().await;
        }
        assert_eq!(fs::read_to_string(dir.path().join("ran")).unwrap(), "ran\n");
        assert_eq!(look(&run).unwrap(), Found::Ended(0));
    }

    #[tokio::test]
    async fn a_shim_that_comes_second_leaves_the_first_alone() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path());
        let launch = sh("while [ ! -e stop ]; do sleep 0.005; done", dir.path());
        let mut first = spawn(&launch, &run).unwrap();
        while Claim::read(&run).ok().flatten().is_none() {
            tokio::task::yield_now().await;
        }
        let shim = spawn(&launch, &run).unwrap().ended().await;
        assert_eq!(settle(&run, shim), None);
        assert!(matches!(look(&run).unwrap(), Found::Running(_)));
        fs::write(dir.path().join("stop"), "").unwrap();
        let shim = first.ended().await;
        assert_eq!(settle(&run, shim), Some(0));
    }

    #[tokio::test]
    async fn an_unclaimed_run_that_was_looked_at_never_starts() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path());
        assert_eq!(look(&run).unwrap(), Found::Unclaimed, "no directory at all");
        fs::create_dir_all(run.dir()).unwrap();
        // A shim that was started with these paths and comes late finds its directory gone.
        assert_eq!(look(&run).unwrap(), Found::Unclaimed);
        assert!(!run.dir().exists());
    }

    #[tokio::test]
    async fn a_process_is_adopted_and_its_end_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path());
        let script = "while [ ! -e stop ]; do sleep 0.005; done; exit 4";
        let mut child = spawn(&sh(script, dir.path()), &run).unwrap();
        while Claim::read(&run).ok().flatten().is_none() {
            tokio::task::yield_now().await;
        }
        let Found::Running(claim) = look(&run).unwrap() else { panic!("running") };
        for other in [
            Claim { uid: "another".to_owned(), ..claim.clone() },
            Claim { boot: "earlier".to_owned(), ..claim.clone() },
            Claim { pid: std::process::id().try_into().unwrap(), ..claim.clone() },
        ] {
            assert!(other.adopt().unwrap().is_none(), "{other:?} is somebody else");
        }
        let mut adopted = claim.adopt().unwrap().unwrap();
        fs::write(dir.path().join("stop"), "").unwrap();
        let shim = adopted.ended().await;
        assert_eq!(settle(&run, shim), Some(4));
        child.ended().await;
        assert!(claim.adopt().unwrap().is_none(), "it has ended");
    }

    #[tokio::test]
    async fn a_lost_run_is_told_from_one_that_ended_and_its_orphans_are_killed() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path());
        let script = "echo $$ >child; kill -9 $PPID; sleep 300";
        let mut process = spawn(&sh(script, dir.path()), &run).unwrap();
        process.ended().await;
        let Found::Lost(claim) = look(&run).unwrap() else { panic!("lost") };
        let child: i32 =
            fs::read_to_string(dir.path().join("child")).unwrap().trim().parse().unwrap();
        let other = Claim { uid: "another".to_owned(), ..claim.clone() };
        other.kill_rest();
        assert!(stat_of(child).is_some_and(|s| !s.is_dead()), "not ours to kill");
        claim.kill_rest();
        assert!(gone(child).await);
    }

    #[test]
    fn the_stat_line_is_read_behind_any_name() {
        let line = "42 (a) b (c) S 1 40 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987 1 2 3";
        assert_eq!(parse_stat(line), Some(Stat { state: b'S', group: 40 }));
        assert_eq!(parse_stat("42 (x"), None, "cut short");
        let claim = Claim { boot: "boot".to_owned(), pid: 42, uid: "u".to_owned() };
        assert_eq!(Claim::parse("boot 42", "u"), Some(claim.clone()));
        assert_eq!(Claim::parse("boot 42 (sh) S 1", "u"), Some(claim));
        assert_eq!(Claim::parse("boot", "u"), None, "cut short");
    }

    #[test]
    fn a_command_that_cannot_run_is_named_with_where_it_was_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("data"), "").unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let path = format!("/nowhere:{}", dir.path().display());
        #[rustfmt::skip]
        let cases = [
            // what the case shows       program           code and what the message names
            ("not in PATH",              "mizzen-no-such", 127, "/nowhere:"),
            ("no such file",             "./gone",         127, "`./gone`"),
            ("in PATH, not executable",  "data",           126, "not executable"),
            ("a directory",              "./sub",          126, "a directory"),
            ("nothing",                  "",               127, "empty"),
        ];
        for (shows, program, code, names) in cases {
            let error = resolve(program, &path, dir.path()).unwrap_err();
            assert_eq!(error.code, code, "{shows}");
            assert!(error.message.contains(names), "{shows}: {}", error.message);
        }
        assert_eq!(resolve("sh", "/nowhere:/bin", dir.path()), Ok("/bin/sh".into()));
    }

    #[test]
    fn a_directory_is_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let held = lock(&path).unwrap();
        assert!(held.is_some());
        assert!(lock(&path).unwrap().is_none());
        drop(held);
        assert!(lock(&path).unwrap().is_some());
    }
}
