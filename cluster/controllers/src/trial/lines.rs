//! Lines out of a byte stream, whatever the bytes are.

use std::io;

use futures::{AsyncBufRead, AsyncBufReadExt, Stream, stream};

/// Bytes kept of one line. A progress bar may write megabytes without a newline; what a metric
/// needs stands at the beginning.
const LINE_MAX: usize = 64 << 10;

/// The lines of `log`, without their ends; bytes that are not UTF-8 are replaced.
pub(super) fn lines(
    log: impl AsyncBufRead + Send + 'static,
) -> impl Stream<Item = io::Result<String>> + Send + 'static {
    stream::unfold(Box::pin(log), |mut log| async {
        match line(&mut log).await {
            Ok(Some(line)) => Some((Ok(line), log)),
            Ok(None) => None,
            Err(error) => Some((Err(error), log)),
        }
    })
}

async fn line(log: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    loop {
        let bytes = log.fill_buf().await?;
        if bytes.is_empty() {
            return Ok((!line.is_empty()).then(|| text(&line)));
        }
        let end = bytes.iter().position(|b| *b == b'\n');
        let take = end.unwrap_or(bytes.len());
        line.extend_from_slice(&bytes[..take.min(LINE_MAX - line.len())]);
        log.consume_unpin(take + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(Some(text(&line)));
        }
    }
}

fn text(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8_lossy(line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{TryStreamExt, io::BufReader};

    #[tokio::test]
    async fn lines_are_whole_bounded_and_text() {
        let long = "x".repeat(LINE_MAX + 10);
        let log = format!("a=1\r\n\nb\u{fffd}\n{long}\nlast").replace('\u{fffd}', "\u{e9}");
        let reader = BufReader::with_capacity(7, futures::io::Cursor::new(log.into_bytes()));
        let got: Vec<String> = lines(reader).try_collect().await.unwrap();
        assert_eq!(got[..3], ["a=1", "", "b\u{e9}"]);
        assert_eq!(got[3].len(), LINE_MAX);
        assert_eq!(got[4], "last");
        let broken = BufReader::new(futures::io::Cursor::new(vec![b'a', 0xff, b'\n']));
        let got: Vec<String> = lines(broken).try_collect().await.unwrap();
        assert_eq!(got, ["a\u{fffd}"]);
    }
}
