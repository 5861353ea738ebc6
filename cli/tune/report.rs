//! `mizzen tune report`

use std::{
    collections::{HashMap, HashSet},
    io::Write,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use kube::{Api, ResourceExt as _, api::ListParams};
use mizzen_crds::{Experiment, LABEL_EXPERIMENT, Trial};
use mizzen_tuning_report::{
    Font, Importance, Lettering, Report, Series, Sheet, csv, json, page, plots, png,
};
use mizzen_types::ErrorCode;

use super::{describe, font, read::Reader, say};
use crate::{
    connect::Target,
    failure::{Failure, Result},
    global::{Global, block_on},
};

/// Write an experiment as a page, as plots, or as a table of its trials
///
/// The page is one HTML file that opens from disk and loads nothing: the best trial, the history of the
/// objective, parallel coordinates, the importance of each parameter, slices, contours, learning curves and
/// a table of all trials. Reads a running server, or the data directory where none runs; it starts nothing
/// and changes nothing, and may be called while the experiment runs.
#[derive(Debug, Args)]
pub(crate) struct TuneReport {
    /// Name of the experiment
    #[arg(value_name = "NAME")]
    name: String,
    /// What to write: one page, one file a plot, or all trials with parameters, metrics, states and times
    #[arg(long, value_enum, default_value = "html")]
    format: Format,
    /// Where to: a file, or a directory for svg and png; `-` is stdout [default: NAME.html, NAME-plots,
    /// stdout for csv and json]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Font (TTF or OTF) for the words in png; one of this machine's where absent
    #[arg(long, value_name = "FILE")]
    font: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Html,
    Svg,
    Png,
    Csv,
    Json,
}

/// Trials whose series are fetched: as many curves as a plot draws.
const SERIES_MAX: usize = 100;
/// How wide plots in files of their own are, in pixels.
const WIDTH: f64 = 800.0;

impl TuneReport {
    pub(crate) fn run(&self, global: &Global, out: &mut dyn Write) -> Result<()> {
        global.init_logs("warn")?;
        let many = matches!(self.format, Format::Svg | Format::Png);
        if many && self.output.as_deref() == Some(Path::new("-")) {
            let message = "svg and png are one file a plot; give a directory with --output DIR";
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        let report = block_on(0, self.fetch(global))?;
        self.write(&report, out)
    }

    async fn fetch(&self, global: &Global) -> Result<Report> {
        let reader = Reader::open(global, &self.target).await?;
        let namespace = &self.target.namespace;
        let experiments: Api<Experiment> = Api::namespaced(reader.client.clone(), namespace);
        let experiment = experiments.get(&self.name).await.map_err(|e| {
            Failure::kube(
                format!("cannot get experiment `{}` in namespace `{namespace}`", self.name),
                e,
            )
        })?;
        let trials: Api<Trial> = Api::namespaced(reader.client.clone(), namespace);
        let of_it = ListParams::default().labels(&format!("{LABEL_EXPERIMENT}={}", self.name));
        let trials =
            trials.list(&of_it).await.map_err(|e| Failure::kube("cannot list the trials", e))?;
        let mut report = describe::report(&experiment, &trials.items);
        if self.format != Format::Csv {
            add_series(&reader, &trials.items, &mut report).await?;
        }
        Ok(report)
    }

    fn write(&self, report: &Report, out: &mut dyn Write) -> Result<()> {
        match self.format {
            Format::Csv => self.write_text(report, csv(report), None, out),
            Format::Json => {
                let all = json(report, &Importance::of(report));
                self.write_text(report, format!("{all:#}\n"), None, out)
            }
            Format::Html => {
                let file = format!("{}.html", report.name);
                self.write_text(report, page(report, &Importance::of(report)), Some(file), out)
            }
            Format::Svg => self.write_plots(report, Lettering::Text),
            Format::Png => {
                let (path, bytes) = font::find(self.font.as_deref())?;
                let font = Font::parse(&bytes).ok_or_else(|| font::unusable(&path))?;
                self.write_plots(report, Lettering::Outlines(&font))
            }
        }
    }

    fn write_text(
        &self,
        report: &Report,
        text: String,
        file: Option<String>,
        out: &mut dyn Write,
    ) -> Result<()> {
        let path = self.output.clone().or(file.map(PathBuf::from));
        match path {
            Some(path) if path != Path::new("-") => {
                put(&path, text.as_bytes())?;
                say(&format!("wrote {} ({} trials)", path.display(), report.trials.len()));
                Ok(())
            }
            _ => out.write_all(text.as_bytes()).map_err(Failure::from),
        }
    }

    fn write_plots(&self, report: &Report, lettering: Lettering<'_>) -> Result<()> {
        let named = || PathBuf::from(format!("{}-plots", report.name));
        let dir = self.output.clone().unwrap_or_else(named);
        std::fs::create_dir_all(&dir)
            .map_err(|e| Failure::from(e).context(format!("cannot make `{}`", dir.display())))?;
        let sheet = Sheet { width: WIDTH, lettering };
        for plot in plots(report, &Importance::of(report), &sheet) {
            let svg = plot.standalone(lettering);
            if self.format == Format::Svg {
                put(&dir.join(format!("{}.svg", plot.id)), svg.as_bytes())?;
                continue;
            }
            let picture = png(&svg).map_err(|e| {
                Failure::new(ErrorCode::Internal, format!("plot `{}`: {e}", plot.id))
            })?;
            put(&dir.join(format!("{}.png", plot.id)), &picture)?;
        }
        say(&format!("wrote the plots to {} ({} trials)", dir.display(), report.trials.len()));
        Ok(())
    }
}

/// Series of the best trials, of an even choice of the rest and of those that run.
async fn add_series(reader: &Reader, trials: &[Trial], report: &mut Report) -> Result<()> {
    let uids: HashMap<&str, String> = trials
        .iter()
        .map(|t| (t.metadata.name.as_deref().unwrap_or_default(), t.uid().unwrap_or_default()))
        .collect();
    let mut wanted: Vec<usize> = report.ranked().into_iter().map(|r| r.0).collect();
    let ranked: HashSet<usize> = wanted.iter().copied().collect();
    let unranked = (0..report.trials.len()).filter(|i| !ranked.contains(i)).collect::<Vec<_>>();
    let room = SERIES_MAX.saturating_sub(unranked.len().min(SERIES_MAX / 4));
    if wanted.len() > room {
        let rest = wanted.split_off(room / 2);
        let step = rest.len().div_ceil(room - room / 2).max(1);
        wanted.extend(rest.into_iter().step_by(step));
    }
    wanted.extend(unranked);
    wanted.truncate(SERIES_MAX);
    for i in wanted {
        let trial = &mut report.trials[i];
        let uid = uids.get(trial.name.as_str()).cloned().unwrap_or_default();
        let Some(series) = reader.series(&uid).await? else {
            let why = "the values along the way are not in the cluster's API: the operator keeps them, and gives \
                       them out as Katib's DBManager (GetObservationLog), not through the API server";
            say(&format!("learning curves are left out: {why}"));
            report.curves_missing = Some(why.to_owned());
            return Ok(());
        };
        trial.series =
            series.into_iter().map(|(metric, values)| Series { metric, values }).collect();
    }
    Ok(())
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes)
        .map_err(|e| Failure::from(e).context(format!("cannot write `{}`", path.display())))
}
