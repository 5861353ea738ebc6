//! Where metric series go.
//!
//! A series is keyed by trial, metric and step, the n-th value that the metric took. Reading the
//! same log twice therefore stores the same rows, and a live reading that was cut short is made
//! whole by the reading after the trial has ended. Of a metric with very many values a part is kept,
//! which shows what all of them would (see `thinning`).

use futures::future::BoxFuture;
use k8s_openapi::jiff::Timestamp;
use mizzen_store::{Store, StoreError, rusqlite};

use crate::pushed;
use crate::thinning::{POINTS_MAX, Thinned, thin};

/// One value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricPoint {
    /// Name of the metric.
    pub metric: String,
    /// The n-th value of this metric, from 0.
    pub step: u64,
    /// When it was reported, if the trial said so.
    pub time: Option<Timestamp>,
    /// The value as the trial wrote it.
    pub value: String,
}

/// Keeps metric series of trials, by the trial's uid.
pub trait MetricSink: Send + Sync + 'static {
    /// Adds points; those that are there already are replaced.
    fn add(&self, trial: &str, points: Vec<MetricPoint>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Puts these points in place of all that the trial has.
    fn replace(
        &self,
        trial: &str,
        points: Vec<MetricPoint>,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// All points of a trial, by metric and step.
    ///
    /// # Errors
    /// What the store refused.
    fn series(&self, trial: &str) -> Result<Vec<MetricPoint>, StoreError>;

    /// The points of one metric of a trial, by step.
    ///
    /// # Errors
    /// What the store refused.
    fn series_of(&self, trial: &str, metric: &str) -> Result<Vec<MetricPoint>, StoreError>;

    /// The same as [`MetricSink::series`], with what a trial reported by itself although its log is read.
    ///
    /// # Errors
    /// What the store refused.
    fn whole(&self, trial: &str) -> Result<Vec<MetricPoint>, StoreError> {
        let pushed = self.series(&format!("{trial}{}", pushed::SUFFIX))?;
        Ok(pushed::join(self.series(trial)?, pushed))
    }

    /// The same of one metric.
    ///
    /// # Errors
    /// What the store refused.
    fn whole_of(&self, trial: &str, metric: &str) -> Result<Vec<MetricPoint>, StoreError> {
        let pushed = self.series_of(&format!("{trial}{}", pushed::SUFFIX), metric)?;
        Ok(pushed::join(self.series_of(trial, metric)?, pushed))
    }
}

/// A [`MetricSink`] in the store of one machine, or of the operator's own data directory.
#[derive(Clone)]
pub struct StoreSink {
    store: Store,
}

const MIGRATIONS: &[&str] = &["CREATE TABLE metrics (
    trial TEXT NOT NULL,
    metric TEXT NOT NULL,
    step INTEGER NOT NULL,
    time TEXT,
    value TEXT NOT NULL,
    PRIMARY KEY (trial, metric, step)
) WITHOUT ROWID"];

impl StoreSink {
    /// A sink in this store; creates its table where it is missing.
    ///
    /// # Errors
    /// What the store refused.
    pub fn open(store: Store) -> Result<Self, StoreError> {
        store.migrate("metrics", MIGRATIONS)?;
        Ok(Self { store })
    }

    /// The last point of every metric of a trial, for those who only look at where it is.
    ///
    /// # Errors
    /// What the store refused.
    pub fn newest(&self, trial: &str) -> Result<Vec<MetricPoint>, StoreError> {
        self.store.read(|c| {
            // SQLite takes the other columns from the row of the largest step.
            let sql = "SELECT metric, max(step), time, value FROM metrics
                       WHERE trial IN (?1, ?2) GROUP BY metric";
            let mut select = c.prepare_cached(sql)?;
            let rows = select.query_map([trial, &format!("{trial}{}", pushed::SUFFIX)], point)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    fn put(
        &self,
        trial: &str,
        points: Vec<MetricPoint>,
        whole: bool,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        let trial = trial.to_owned();
        let mut thinned = Thinned::default();
        thinned.extend(points);
        let points = thinned.into_points();
        Box::pin(self.store.write(move |tx| {
            if whole {
                tx.prepare_cached("DELETE FROM metrics WHERE trial = ?1")?.execute([&trial])?;
            }
            let mut insert =
                tx.prepare_cached("INSERT OR REPLACE INTO metrics VALUES (?1, ?2, ?3, ?4, ?5)")?;
            for point in &points {
                let time = point.time.map(|t| t.to_string());
                let step = i64::try_from(point.step).unwrap_or(i64::MAX);
                insert.execute((&trial, &point.metric, step, time, &point.value))?;
            }
            drop(insert);
            // No metric has more points than the step of its last one allows.
            let long = points.chunk_by(|a, b| a.metric == b.metric).filter_map(|of| of.last());
            for last in long.filter(|last| last.step >= POINTS_MAX as u64) {
                thin_stored(tx, &trial, &last.metric)?;
            }
            Ok(())
        }))
    }
}

impl MetricSink for StoreSink {
    fn add(&self, trial: &str, points: Vec<MetricPoint>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.put(trial, points, false)
    }

    fn replace(
        &self,
        trial: &str,
        points: Vec<MetricPoint>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.put(trial, points, true)
    }

    fn series(&self, trial: &str) -> Result<Vec<MetricPoint>, StoreError> {
        self.store.read(|c| {
            let sql = "SELECT metric, step, time, value FROM metrics WHERE trial = ?1
                       ORDER BY metric, step";
            let mut select = c.prepare_cached(sql)?;
            let rows = select.query_map([trial], point)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    fn series_of(&self, trial: &str, metric: &str) -> Result<Vec<MetricPoint>, StoreError> {
        self.store.read(|c| Ok(select_series(c, trial, metric)?))
    }
}

fn select_series(
    c: &rusqlite::Connection,
    trial: &str,
    metric: &str,
) -> Result<Vec<MetricPoint>, rusqlite::Error> {
    let sql = "SELECT metric, step, time, value FROM metrics
               WHERE trial = ?1 AND metric = ?2 ORDER BY step";
    let mut select = c.prepare_cached(sql)?;
    select.query_map([trial, metric], point)?.collect()
}

/// Thins a stored series that has grown beyond its bound.
fn thin_stored(
    tx: &rusqlite::Connection,
    trial: &str,
    metric: &str,
) -> Result<(), rusqlite::Error> {
    let sql = "SELECT count(*) FROM metrics WHERE trial = ?1 AND metric = ?2";
    let count: i64 = tx.prepare_cached(sql)?.query_row([trial, metric], |row| row.get(0))?;
    if count <= POINTS_MAX as i64 {
        return Ok(());
    }
    let all = select_series(tx, trial, metric)?;
    let mut kept = all.clone();
    thin(&mut kept);
    let sql = "DELETE FROM metrics WHERE trial = ?1 AND metric = ?2 AND step = ?3";
    let mut delete = tx.prepare_cached(sql)?;
    let mut kept = kept.iter().map(|point| point.step).peekable();
    for point in all {
        if kept.next_if_eq(&point.step).is_none() {
            delete.execute((trial, metric, i64::try_from(point.step).unwrap_or(i64::MAX)))?;
        }
    }
    Ok(())
}

fn point(row: &rusqlite::Row<'_>) -> Result<MetricPoint, rusqlite::Error> {
    let time: Option<String> = row.get(2)?;
    Ok(MetricPoint {
        metric: row.get(0)?,
        step: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
        time: time.and_then(|t| t.parse().ok()),
        value: row.get(3)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn points_are_stored_once_and_a_whole_reading_replaces_all() {
        let dir = tempfile::tempdir().unwrap();
        let sink = StoreSink::open(Store::open(&dir.path().join("m.db")).unwrap()).unwrap();
        let point = |step, value: &str| MetricPoint {
            metric: "loss".into(),
            step,
            time: Timestamp::from_second(7).ok(),
            value: value.into(),
        };
        sink.add("t", vec![point(0, "1"), point(1, "2")]).await.unwrap();
        sink.add("t", vec![point(1, "2"), point(2, "3")]).await.unwrap();
        assert_eq!(sink.series("t").unwrap(), [point(0, "1"), point(1, "2"), point(2, "3")]);
        let other = MetricPoint { metric: "acc".into(), ..point(0, "7") };
        sink.add("t", vec![other.clone()]).await.unwrap();
        assert_eq!(sink.series_of("t", "acc").unwrap(), [other]);
        assert_eq!(sink.series_of("t", "loss").unwrap().len(), 3);
        assert_eq!(
            sink.newest("t").unwrap(),
            [sink.series_of("t", "acc").unwrap().remove(0), point(2, "3")]
        );
        sink.replace("t", vec![point(0, "9")]).await.unwrap();
        assert_eq!(sink.series("t").unwrap(), [point(0, "9")]);
        assert_eq!(sink.series("other").unwrap(), []);
    }

    #[tokio::test]
    async fn a_series_without_end_keeps_its_bound_and_its_extremes() {
        let dir = tempfile::tempdir().unwrap();
        let sink = StoreSink::open(Store::open(&dir.path().join("m.db")).unwrap()).unwrap();
        let point = |step: u64| MetricPoint {
            metric: "loss".into(),
            step,
            time: None,
            value: if step == 31_007 { "-1".into() } else { step.to_string() },
        };
        for batch in 0..50 {
            let points = (batch * 1000..(batch + 1) * 1000).map(point).collect();
            sink.add("t", points).await.unwrap();
            assert!(sink.series("t").unwrap().len() <= POINTS_MAX);
        }
        let kept = sink.series_of("t", "loss").unwrap();
        assert!(kept.len() > POINTS_MAX / 4, "{}", kept.len());
        for step in [0, 31_007, 49_999] {
            assert!(kept.contains(&point(step)), "step {step}");
        }
        sink.replace("t", (0..50_000).map(point).collect()).await.unwrap();
        let whole = sink.series("t").unwrap();
        assert!(whole.len() <= POINTS_MAX && whole.contains(&point(31_007)));
    }
}
