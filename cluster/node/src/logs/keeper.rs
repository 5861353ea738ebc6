//! Watches the log of a container that runs, so that it stays within its bound.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Instant,
};

use k8s_openapi::api::core::v1::Pod;
use tokio::task::AbortHandle;

use super::cut::{LOOK_FIRST, Size, next_look, trim};
use crate::{context::Context, paths::RunPaths};

/// Watches for as long as it is held.
#[derive(Debug)]
pub(crate) struct Keeper {
    task: AbortHandle,
    turn: Turn,
}

/// One cut at a time: a look cannot be called off once it has begun.
type Turn = Arc<Mutex<()>>;

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    /// Of this run of a container of this Pod.
    pub(crate) fn start(ctx: Arc<Context>, pod: Arc<Pod>, container: &str, run: RunPaths) -> Self {
        let (container, turn) = (container.to_owned(), Turn::default());
        let turns = turn.clone();
        let watch = async move { watch(&ctx, &pod, &container, &run, &turns).await };
        Self { task: tokio::spawn(watch).abort_handle(), turn }
    }
}

async fn watch(ctx: &Context, pod: &Pod, container: &str, run: &RunPaths, turn: &Turn) {
    let bound = ctx.options.log_bytes_max;
    let (mut wait, mut before, mut told) = (LOOK_FIRST, None::<(u64, Instant)>, false);
    loop {
        tokio::time::sleep(wait).await;
        let (of, turn) = (run.clone(), turn.clone());
        let look = move || {
            let _turn = turn.lock().expect("never poisoned");
            trim(&of, bound)
        };
        let looked = match tokio::task::spawn_blocking(look).await {
            Ok(looked) => looked,
            Err(_) => return,
        };
        let size = match looked {
            Ok(size) => size,
            Err(error) => {
                // A file system that cannot do it, or a disk in trouble: either stays so.
                return ctx.events.warning(pod, "LogNotCut", &not_cut(container, bound, &error));
            }
        };
        if size.cut.is_some() && !told {
            told = true;
            ctx.events.warning(pod, "LogCut", &passed(container, bound));
        }
        let now = Instant::now();
        let (grown, since) = match before {
            Some((printed, at)) => (size.printed.saturating_sub(printed), now - at),
            None => (size.printed, wait),
        };
        before = Some((size.printed, now));
        wait = next_look(grown, since, bound.saturating_sub(size.kept));
    }
}

/// Cuts the log of a run that has ended, which may have passed its bound since the last look, and says
/// what is gone of it.
pub(crate) fn last_look(
    ctx: &Context,
    pod: &Pod,
    container: &str,
    run: &RunPaths,
    keeper: Option<Keeper>,
) {
    let bound = ctx.options.log_bytes_max;
    let _turn = keeper.as_ref().map(|keeper| keeper.turn.lock().expect("never poisoned"));
    match trim(run, bound) {
        Ok(Size { printed, cut: Some(cut), .. }) => {
            let dropped = cut.bytes();
            let message = format!(
                "{}: of {printed} bytes in all, {dropped} were dropped",
                passed(container, bound)
            );
            ctx.events.warning(pod, "LogCut", &message);
        }
        Ok(_) => {}
        Err(error) => ctx.events.warning(pod, "LogNotCut", &not_cut(container, bound, &error)),
    }
}

fn passed(container: &str, bound: u64) -> String {
    format!(
        "container {container} has printed more than the {bound} bytes that its log may have; the log keeps its beginning and its end"
    )
}

fn not_cut(container: &str, bound: u64, error: &io::Error) -> String {
    format!(
        "the log of container {container} has passed {bound} bytes and could not be cut, so it grows on: {error}; keep the data directory on a file system that can free a part of a file, such as ext4, xfs, btrfs or tmpfs"
    )
}
