//! Keeps a log within its bound: its beginning and its end stay, what lies between goes.
//!
//! Commands write their log themselves and nothing stands between, so what was printed can only be taken
//! back: its space is given back to the file system, in place. The file keeps its length and each byte
//! its position, so neither the command nor a reader has to know. A `cut` file beside the log says which
//! bytes are gone; it is written before they go, so that a reader who looks at it after reading knows
//! whether what it read was still there.
//!
//! A log may pass its bound by what is printed between two looks, and while no mizzen runs; the next one
//! to start takes that back. On a file system that cannot give back part of a file, it grows on, and an
//! event says so.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    time::Duration,
};

use mizzen_apiserver::Dropped;
use rustix::fs::{FallocateFlags, fallocate};

use crate::paths::RunPaths;

/// What is gone of a log: the bytes from `start` up to `end`, of which each is where a line starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The bound that it was cut for.
    pub(crate) bound: u64,
}

impl Cut {
    /// What is gone of this run's log, if anything.
    pub(crate) fn read(run: &RunPaths) -> Option<Self> {
        let text = fs::read_to_string(run.cut()).ok()?;
        let mut numbers = text.split_ascii_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        let (start, end, bound) = (next()?, next()?, next()?);
        (start < end).then_some(Self { start, end, bound })
    }

    /// Replaced as a whole, as readers look at any time.
    fn write(self, run: &RunPaths) -> io::Result<()> {
        let Self { start, end, bound } = self;
        let fresh = run.cut().with_extension("new");
        fs::write(&fresh, format!("{start} {end} {bound}\n"))?;
        fs::rename(fresh, run.cut())
    }

    pub(crate) fn bytes(self) -> u64 {
        self.end - self.start
    }

    /// What is said in place of the part of it from `position` on.
    pub(crate) fn line(self, position: u64) -> String {
        Dropped { bytes: self.end - position, bound: self.bound }.to_string()
    }
}

/// How a log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Bytes that were printed.
    pub(crate) printed: u64,
    /// Bytes of them that are there.
    pub(crate) kept: u64,
    pub(crate) cut: Option<Cut>,
}

/// The share of a bound that is a log's beginning: how a program was set up is told in its first lines.
const HEAD: u64 = 8;

/// The share that its end is cut down to. What is between that and the bound makes cuts rare, and is the
/// lead that those who follow the log have on the next cut.
const TAIL: u64 = 2;

/// Cuts a run's log if it has passed `bound`, and says how it stands then.
///
/// Blocks for as long as the file system takes to free the space.
pub(crate) fn trim(run: &RunPaths, bound: u64) -> io::Result<Size> {
    let printed = match fs::metadata(run.log()) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(e) => return Err(e),
    };
    let old = if printed > bound { Cut::read(run) } else { None };
    let kept = printed - old.map_or(0, Cut::bytes);
    if kept <= bound {
        return Ok(Size { printed, kept, cut: old });
    }
    // Not for appending: what is written here goes where it is told to.
    let log = OpenOptions::new().read(true).write(true).open(run.log())?;
    let start = match old {
        Some(old) => old.start,
        None => line_start(&log, bound / HEAD, true)?,
    };
    let end = line_start(&log, printed - bound / TAIL, false)?;
    let cut = Cut { start, end, bound };
    if old.is_some_and(|old| old.end >= end) || start >= end {
        return Ok(Size { printed, kept, cut: old });
    }
    cut.write(run)?;
    let freed = free(&log, cut, old);
    if freed.is_err() {
        match old {
            Some(old) => old.write(run)?,
            None => fs::remove_file(run.cut())?,
        }
    }
    freed?;
    Ok(Size { printed, kept: printed - cut.bytes(), cut: Some(cut) })
}

/// Gives the space back, and says in the file itself, for those who open it there, what is gone.
fn free(log: &File, cut: Cut, old: Option<Cut>) -> io::Result<()> {
    let from = old.map_or(cut.start, |old| old.end);
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(log, flags, from, cut.end - from)?;
    let line = cut.line(cut.start) + "\n";
    // Beyond the lines that are cut, a cut is never as short as this; and if it were, it says so anyway.
    let room = usize::try_from(cut.bytes()).unwrap_or(usize::MAX).min(line.len());
    log.write_all_at(&line.as_bytes()[..room], cut.start)
}

/// How far around a place a line's start is looked for; in longer lines the place itself is taken.
const LINE_SOUGHT: u64 = 64 << 10;

/// Where a line starts next to `place`: before it, or after it.
fn line_start(log: &File, place: u64, before: bool) -> io::Result<u64> {
    let from = if before { place.saturating_sub(LINE_SOUGHT) } else { place };
    let len = if before { place - from } else { LINE_SOUGHT };
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let read = log.read_at(&mut bytes, from)?;
    let mut ends = (0..read).filter(|at| bytes[*at] == b'\n');
    let end = if before { ends.next_back() } else { ends.next() };
    Ok(end.map_or(place, |end| from + end as u64 + 1))
}

/// Between two looks at a log.
const LOOK_MIN: Duration = Duration::from_millis(10);
/// A stat takes microseconds, so this many a second of each of a machine's containers cost nothing.
const LOOK_MAX: Duration = Duration::from_millis(250);
/// The first look: most commands that print much have begun by then, and short ones are over.
pub(crate) const LOOK_FIRST: Duration = Duration::from_millis(50);

/// When to look again at a log that grew by `grown` bytes in `since`: when half of the `room` that is left
/// would be taken at that rate.
pub(crate) fn next_look(grown: u64, since: Duration, room: u64) -> Duration {
    if grown == 0 {
        return LOOK_MAX;
    }
    let half = room as f64 / 2.0 / grown as f64;
    since.mul_f64(half.min(1e6)).clamp(LOOK_MIN, LOOK_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::PodPaths;
    use std::os::unix::fs::MetadataExt;

    const BOUND: u64 = 1 << 20;

    fn run(dir: &std::path::Path) -> RunPaths {
        let run = PodPaths::new(dir, "ns", "u").run("main", 0);
        fs::create_dir_all(run.dir()).unwrap();
        run
    }

    fn lines(from: u64, count: u64) -> String {
        (from..from + count).map(|n| format!("line {n:058}\n")).collect()
    }

    fn print(run: &RunPaths, text: &str) {
        let log = OpenOptions::new().create(true).append(true).open(run.log());
        io::Write::write_all(&mut log.unwrap(), text.as_bytes()).unwrap();
    }

    #[test]
    fn a_log_within_its_bound_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path());
        assert_eq!(trim(&run, BOUND).unwrap(), Size { printed: 0, kept: 0, cut: None });
        print(&run, &lines(0, BOUND / 64));
        assert_eq!(trim(&run, BOUND).unwrap(), Size { printed: BOUND, kept: BOUND, cut: None });
        assert!(!run.cut().exists());
    }

    #[test]
    fn however_much_is_printed_the_disk_holds_the_bound_and_both_ends_are_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path());
        let each = BOUND / 64 / 4;
        for turn in 0..64 {
            print(&run, &lines(turn * each, each));
            let size = trim(&run, BOUND).unwrap();
            assert!(size.kept <= BOUND, "{size:?}");
            let disk = fs::metadata(run.log()).unwrap().blocks() * 512;
            assert!(disk <= BOUND + (64 << 10), "{disk} bytes on disk after turn {turn}");
        }
        let cut = Cut::read(&run).unwrap();
        assert_eq!((cut.start % 64, cut.end % 64), (0, 0));
        let text = fs::read(run.log()).unwrap();
        let marked = &text[usize::try_from(cut.start).unwrap()..];
        let marked = marked.split(|b| *b == b'\n').next().unwrap();
        assert_eq!(Dropped::parse(marked), Some(Dropped { bytes: cut.bytes(), bound: BOUND }));
        assert!(text.starts_with(lines(0, 8).as_bytes()));
        assert!(text.ends_with(lines(64 * each - 8, 8).as_bytes()));
    }

    #[test]
    fn one_endless_line_is_cut_like_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path());
        print(&run, &"x".repeat(usize::try_from(2 * BOUND).unwrap()));
        let size = trim(&run, BOUND).unwrap();
        assert_eq!(size.kept, BOUND / HEAD + BOUND / TAIL);
    }

    #[test]
    fn the_faster_a_log_grows_the_sooner_it_is_looked_at() {
        let second = Duration::from_secs(1);
        #[rustfmt::skip]
        let cases = [
            // what the case shows    grown      room     ms until the next look
            ("it stands still",       0,         1 << 20, 250),
            ("slowly",                10,        1 << 20, 250),
            ("room for half a second",1_000_000, 200_000, 100),
            ("faster than can be",    1 << 40,   1 << 20, 10),
            ("there is no room",      1_000,     0,       10),
        ];
        for (shows, grown, room, want) in cases {
            assert_eq!(next_look(grown, second, room).as_millis(), want, "{shows}");
        }
    }
}
