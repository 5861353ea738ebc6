//! TensorFlow's event files: framing, scalars, the rule of directories, and files that lie.

use mizzen_metrics_collector::{EventFile, RECORD_BYTES_MAX};
use proptest::prelude::*;

/// CRC-32C bit by bit, another way than the reader's.
fn crc(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (!(crc & 1)).wrapping_add(1));
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &crc(&length).to_le_bytes(), data, &crc(data).to_le_bytes()].concat()
}

fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    [out, content.to_vec()].concat()
}

fn event(time: f64, values: &[Vec<u8>]) -> Vec<u8> {
    let values: Vec<u8> = values.iter().flat_map(|v| bytes(1, v)).collect();
    record(&[&[9][..], &time.to_le_bytes(), &[16, 7], &bytes(5, &values)].concat())
}

fn simple(tag: &str, value: f32) -> Vec<u8> {
    [bytes(1, tag.as_bytes()), vec![0x15], value.to_le_bytes().to_vec()].concat()
}

fn tensor(tag: &str, tensor: &[u8]) -> Vec<u8> {
    [bytes(1, tag.as_bytes()), bytes(8, tensor)].concat()
}

fn read(metrics: &[&str], dir: &str, file: &[u8]) -> Vec<String> {
    let metrics: Vec<String> = metrics.iter().map(|m| (*m).to_owned()).collect();
    let found = EventFile::new(&metrics, dir).feed(file);
    let text = |t: jiff::Timestamp| t.to_string();
    found
        .iter()
        .map(|r| format!("{}={} {}", r.name, r.value, r.timestamp.map_or("-".into(), text)))
        .collect()
}

#[test]
fn scalars_of_every_writer_are_read() {
    // dtype, shape or none, then the value as content or in a list of its own.
    let float = [&[8, 1, 18, 0][..], &bytes(4, &0.5f32.to_le_bytes())].concat();
    let listed = [&[8, 1, 18, 0, 45][..], &0.25f32.to_le_bytes()].concat();
    let packed = [&[8, 1][..], &bytes(5, &0.125f32.to_le_bytes())].concat();
    let double = [&[8, 2][..], &bytes(4, &0.1f64.to_le_bytes())].concat();
    let int = [&[8, 9][..], &bytes(4, &(-3i64).to_le_bytes())].concat();
    let int_list = [8, 3, 56, 42].to_vec();
    let one = [&[8, 1][..], &bytes(2, &bytes(2, &[8, 1])), &bytes(4, &2f32.to_le_bytes())].concat();
    let two = [&[8, 1][..], &bytes(2, &bytes(2, &[8, 2])), &bytes(4, &[0; 8])].concat();
    let string = [&[8, 7][..], &bytes(8, b"text")].concat();
    #[rustfmt::skip]
    let cases = [
        // what the case shows            value                        read
        ("PyTorch, TensorFlow 1",         simple("loss", 0.9),         vec!["loss=0.9 1970-01-01T00:00:02.5Z"]),
        ("not-a-number",                  simple("loss", f32::NAN),    vec!["loss=NaN 1970-01-01T00:00:02.5Z"]),
        ("TensorFlow 2",                  tensor("loss", &float),      vec!["loss=0.5 1970-01-01T00:00:02.5Z"]),
        ("a list of one",                 tensor("loss", &listed),     vec!["loss=0.25 1970-01-01T00:00:02.5Z"]),
        ("a packed list",                 tensor("loss", &packed),     vec!["loss=0.125 1970-01-01T00:00:02.5Z"]),
        ("a double",                      tensor("loss", &double),     vec!["loss=0.1 1970-01-01T00:00:02.5Z"]),
        ("an integer",                    tensor("loss", &int),        vec!["loss=-3 1970-01-01T00:00:02.5Z"]),
        ("a list of an integer",          tensor("loss", &int_list),   vec!["loss=42 1970-01-01T00:00:02.5Z"]),
        ("a row of one",                  tensor("loss", &one),        vec!["loss=2 1970-01-01T00:00:02.5Z"]),
        ("a row of two is no scalar",     tensor("loss", &two),        vec![]),
        ("text is no scalar",             tensor("loss", &string),     vec![]),
        ("another tag",                   simple("acc", 0.9),          vec![]),
    ];
    for (shows, value, want) in cases {
        assert_eq!(read(&["loss"], "/logs", &event(2.5, &[value])), want, "{shows}");
    }
}

#[test]
fn a_metrics_prefix_is_its_directory() {
    #[rustfmt::skip]
    let cases = [
        // what the case shows                metric            directory       tag               read
        ("no prefix: any directory",          "accuracy",       "/logs/test",   "accuracy",       true),
        ("the directory's last part",         "test/accuracy",  "/logs/test",   "accuracy",       true),
        ("with a slash at its end",           "test/accuracy",  "/logs/test/",  "accuracy",       true),
        ("another directory",                 "test/accuracy",  "/logs/train",  "accuracy",       false),
        ("a directory that ends alike",       "test/accuracy",  "/logs/latest", "accuracy",       false),
        ("two parts",                         "a/test/acc",     "/logs/a/test", "acc",            true),
        ("the directory alone",               "test/acc",       "test",         "acc",            true),
        ("a tag that begins so, as in Katib", "accuracy",       "/logs",        "accuracy_1",     true),
        ("the whole name is a tag",           "test/accuracy",  "/logs",        "test/accuracy",  true),
    ];
    for (shows, metric, dir, tag, want) in cases {
        let found = read(&[metric], dir, &event(1.0, &[simple(tag, 1.0)]));
        assert_eq!(!found.is_empty(), want, "{shows}");
    }
}

#[test]
fn what_is_broken_is_passed_over_and_counted() {
    let good = event(1.0, &[simple("loss", 1.0)]);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut lost = good.clone();
    lost[9] ^= 1;
    let long = RECORD_BYTES_MAX as u64 + 1;
    let header = [&long.to_le_bytes()[..], &crc(&long.to_le_bytes()).to_le_bytes()].concat();
    let picture = [header.clone(), vec![0; long as usize + 4]].concat();
    let endless = u64::MAX.to_le_bytes();
    let endless = [&endless[..], &crc(&endless).to_le_bytes()].concat();
    let garbled = record(&[0x2a, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    #[rustfmt::skip]
    let cases = [
        // what the case shows                    file                                    read  counted
        ("two events",                            [good.clone(), good.clone()].concat(),  2,    0),
        ("the last is still being written",       [&good[..], &good[..20]].concat(),      1,    0),
        ("a wrong checksum loses one record",     [flipped, good.clone()].concat(),       1,    1),
        ("a wrong length loses the rest",         [lost, good.clone()].concat(),          0,    1),
        ("a long record is passed over",          [picture, good.clone()].concat(),       1,    1),
        ("a length that nothing can have",        [endless, good.clone()].concat(),       0,    1),
        ("a record that is no event",             [garbled, good.clone()].concat(),       1,    1),
        ("an empty file",                         vec![],                                 0,    0),
        ("no event file at all",                  vec![b'x'; 100],                        0,    1),
    ];
    for (shows, file, want, counted) in cases {
        let mut reader = EventFile::new(&["loss".to_owned()], "/logs");
        assert_eq!((reader.feed(&file).len(), reader.skipped()), (want, counted), "{shows}");
    }
}

proptest! {
    #[test]
    fn records_do_not_depend_on_how_the_file_is_cut(
        values in prop::collection::vec(any::<f32>(), 1..20),
        spoil in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        cut in 1usize..50,
    ) {
        let mut file: Vec<u8> = values.iter().flat_map(|v| event(1.0, &[simple("loss", *v)])).collect();
        if let Some((at, byte)) = spoil {
            *at.get_mut(&mut file[..]) = byte;
        }
        let metrics = ["loss".to_owned()];
        let mut whole = EventFile::new(&metrics, "/logs");
        let mut pieces = EventFile::new(&metrics, "/logs");
        let text = |r: &mizzen_metrics_collector::MetricRecord| r.value.clone();
        let at_once: Vec<_> = whole.feed(&file).iter().map(text).collect();
        let one_by_one: Vec<_> = file.chunks(cut).flat_map(|c| pieces.feed(c)).map(|r| text(&r)).collect();
        prop_assert_eq!(&at_once, &one_by_one);
        prop_assert_eq!(whole.skipped(), pieces.skipped());
        if spoil.is_none() {
            let want: Vec<_> = values.iter().map(f32::to_string).collect();
            prop_assert_eq!(at_once, want);
        }
    }

    #[test]
    fn any_bytes_are_borne(garbage in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut reader = EventFile::new(&["loss".to_owned()], "/logs");
        reader.feed(&record(&garbage));
        reader.feed(&garbage);
    }
}
