//! The command: started, signalled, waited for.

use std::{os::unix::process::ExitStatusExt, path::Path, process::ExitStatus, time::Duration};

use futures::future::select_all;
use rustix::process::{Pid, getpgrp, getpid, kill_process};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal},
};

use crate::AgentError;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Code(1), // neither ended nor killed: no system says so
        }
    }
}

/// How long the last reports may take once someone asked for the end.
const HURRY: Duration = Duration::from_secs(2);

/// The signals that people and machines send to programs.
pub(crate) struct Signals(Vec<(i32, Signal)>);

impl Signals {
    /// Catches them from now on; the command gets them anew, with their usual meaning.
    pub(crate) fn catch() -> std::io::Result<Self> {
        let kinds = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::terminate(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        let caught = kinds.into_iter().map(|kind| Ok((kind.as_raw_value(), signal(kind)?)));
        caught.collect::<std::io::Result<_>>().map(Self)
    }

    async fn next(&mut self) -> i32 {
        let all = self.0.iter_mut().map(|(number, signal)| {
            Box::pin(async move {
                signal.recv().await;
                *number
            })
        });
        select_all(all).await.0
    }

    /// Ends a little after one came that means the end.
    pub(crate) async fn ask_to_hurry(&mut self) {
        while !ENDS.contains(&self.next().await) {}
        tokio::time::sleep(HURRY).await;
    }
}

/// SIGHUP, SIGINT, SIGQUIT, SIGTERM.
const ENDS: [i32; 4] = [1, 2, 3, 15];

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    pid: Option<Pid>,
}

pub(crate) fn start(command: &[String]) -> Result<Running, AgentError> {
    let (program, arguments) = command.split_first().ok_or(AgentError::NoCommand)?;
    let child = Command::new(program).args(arguments).spawn();
    let child = child.map_err(|source| AgentError::Start { program: program.clone(), source })?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    Ok(Running { child, pid })
}

impl Running {
    /// Waits for the end, passing signals on. One that was sent to the whole process group has reached
    /// the command already: that is how they come unless we lead the group, as in a container.
    pub(crate) async fn wait(&mut self, mut signals: Signals) -> (End, Signals) {
        let leads = getpgrp() == getpid();
        loop {
            tokio::select! {
                status = self.child.wait() => {
                    // It was started and nobody else waits for it.
                    return (status.map_or(End::Code(1), End::from), signals);
                }
                number = signals.next(), if leads => self.pass_on(number),
            }
        }
    }

    fn pass_on(&self, number: i32) {
        let signal = rustix::process::Signal::from_named_raw(number);
        if let (Some(pid), Some(signal)) = (self.pid, signal) {
            let _ = kill_process(pid, signal); // it may have ended this moment
        }
    }

    /// Leaves Katib's mark.
    pub(crate) fn mark(&self, dir: &Path) {
        let pid = self.pid.map_or(0, |pid| pid.as_raw_nonzero().get());
        if let Err(error) = std::fs::write(dir.join(format!("{pid}.pid")), "completed\n") {
            eprintln!("mizzen agent: cannot write into `{}`: {error}", dir.display());
        }
    }
}
