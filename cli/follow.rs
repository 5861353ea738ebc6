//! Progress of long work: a bar and a line per piece on a terminal, plain lines elsewhere.
//!
//! Everything goes to stderr; stdout is for the result.

use std::{collections::BTreeMap, fmt, io::IsTerminal as _, time::Duration};

use futures::StreamExt as _;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kube::{
    Api, Client, Resource,
    core::NamespaceResourceScope,
    runtime::{WatchStreamExt as _, watcher},
};
use mizzen_types::ErrorCode;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::failure::{Failure, Result};

/// Changes that may wait to be drawn; a watch that runs ahead of a slow terminal waits.
const QUEUE: usize = 64;

/// A change of one watched object; `None` is its deletion.
pub(crate) type Change<K> = (String, Option<K>);

/// Watches objects of one kind until the receiver is dropped.
pub(crate) fn watch<K>(
    client: &Client,
    namespace: &str,
    config: watcher::Config,
) -> mpsc::Receiver<Result<Change<K>>>
where
    K: Resource<Scope = NamespaceResourceScope>
        + Clone
        + fmt::Debug
        + DeserializeOwned
        + Send
        + 'static,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let (send, receive) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut failures = 0;
        let mut events = watcher(api, config).default_backoff().boxed();
        while let Some(event) = events.next().await {
            let name = |k: &K| k.meta().name.clone().unwrap_or_default();
            let change = match event {
                Ok(watcher::Event::Apply(k) | watcher::Event::InitApply(k)) => {
                    Ok((name(&k), Some(k)))
                }
                Ok(watcher::Event::Delete(k)) => Ok((name(&k), None)),
                Ok(watcher::Event::Init | watcher::Event::InitDone) => continue,
                Err(error) => {
                    failures += 1;
                    // The watch restarts by itself; a server that stays away for about a minute is gone.
                    if failures < 8 {
                        continue;
                    }
                    Err(Failure::new(ErrorCode::Unavailable, format!("lost the server: {error}")))
                }
            };
            failures = if change.is_ok() { 0 } else { failures };
            if send.send(change).await.is_err() {
                return;
            }
        }
    });
    receive
}

/// Shows how far the work is.
pub(crate) struct Progress {
    screen: Option<Screen>,
}

struct Screen {
    all: MultiProgress,
    bar: ProgressBar,
    running: BTreeMap<String, ProgressBar>,
}

impl Progress {
    /// `quiet` shows nothing at all.
    pub(crate) fn new(what: &str, total: Option<u64>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { screen: None };
        }
        let all = MultiProgress::new();
        let bar = all.add(ProgressBar::new(total.unwrap_or(0)));
        let style = ProgressStyle::with_template(
            "{prefix} {bar:28.cyan/dim} {pos}/{len}  {elapsed}  {msg}",
        );
        bar.set_style(style.expect("the template is valid").progress_chars("━╸─"));
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { screen: Some(Screen { all, bar, running: BTreeMap::new() }) }
    }

    /// How much is done, of how much, with a word on the best so far.
    pub(crate) fn advance(&self, done: u64, total: u64, word: &str) {
        if let Some(screen) = &self.screen {
            screen.bar.set_length(total);
            screen.bar.set_position(done);
            screen.bar.set_message(word.to_owned());
        }
    }

    /// A piece is running; `word` is the last thing known of it.
    pub(crate) fn running(&mut self, name: &str, word: &str) {
        let Some(screen) = &mut self.screen else { return };
        let bar = screen.running.entry(name.to_owned()).or_insert_with(|| {
            let bar = screen.all.insert_before(&screen.bar, ProgressBar::new_spinner());
            let style = ProgressStyle::with_template(
                "  {spinner:.cyan} {prefix} {elapsed:.dim}  {msg:.dim}",
            );
            bar.set_style(style.expect("the template is valid"));
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        bar.set_message(word.to_owned());
    }

    /// A piece has ended; `line` stays on the screen.
    pub(crate) fn ended(&mut self, name: &str, line: &str) {
        if let Some(bar) = self.screen.as_mut().and_then(|s| s.running.remove(name)) {
            bar.finish_and_clear();
        }
        self.say(line);
    }

    /// A line that stays.
    #[allow(clippy::print_stderr, reason = "talk goes to stderr, and this is where it does")]
    pub(crate) fn say(&self, line: &str) {
        match &self.screen {
            Some(screen) => drop(screen.all.println(line)),
            None => eprintln!("{line}"),
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(mut self) {
        if let Some(screen) = self.screen.take() {
            screen.running.values().for_each(ProgressBar::finish_and_clear);
            screen.bar.finish_and_clear();
        }
    }
}

/// Seconds between two times, for people.
pub(crate) fn took(start: Option<jiff::Timestamp>, end: Option<jiff::Timestamp>) -> String {
    match (start, end) {
        (Some(start), Some(end)) => {
            format!("{:.1} s", (end.as_millisecond() - start.as_millisecond()) as f64 / 1e3)
        }
        _ => String::new(),
    }
}
