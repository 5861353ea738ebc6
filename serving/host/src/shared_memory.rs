//! System shared memory that clients register, so that tensors need not travel in messages.
//!
//! A region is a file below `/dev/shm` that a client made and named here. It is read and written
//! with positioned reads and writes and never mapped: a client may shrink its file at any moment,
//! and what would kill a process that had mapped it is an error here. Sizes are looked at again at
//! every use. Off unless the server was told to allow it, because whoever can reach the server can
//! then have it read and write any shared memory that the server's user may.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mizzen_serving_core::{
    InferRequest, InferResponse, protocol,
    shared_memory::{SharedInput, SharedPart, SharedTensors},
};
use mizzen_types::{ErrorCode, NamedTensor};
use rustix::fs::{Mode, OFlags};

use crate::ServeError;

/// Where POSIX shared memory is.
const DIRECTORY: &str = "/dev/shm";

/// Regions registered at once: each holds a file open.
const REGIONS_MAX: usize = 1024;

/// Bytes of a region's or a key's name; what a file may be called.
const NAME_BYTES_MAX: usize = 255;

/// Bytes that one request may have in shared memory. What is read is copied, and a small message can
/// name the same large region any number of times.
const REQUEST_BYTES_MAX: u64 = 2 << 30;

/// Bytes above which copying goes to the blocking pool: at some GB/s about half a millisecond.
const OFFLOAD_BYTES: u64 = 1 << 20;

/// A registered region, as the status call shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionStatus {
    /// The name it was registered by.
    pub name: String,
    /// The shared memory object.
    pub key: String,
    /// Where in the object it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub byte_size: u64,
}

/// The registered regions.
pub struct SharedMemory {
    allowed: bool,
    regions: Mutex<BTreeMap<String, Arc<Region>>>,
}

struct Region {
    status: RegionStatus,
    file: File,
}

impl SharedMemory {
    pub(crate) fn new(allowed: bool) -> Self {
        Self { allowed, regions: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Region>>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_allowed(&self) -> Result<(), ServeError> {
        match self.allowed {
            true => Ok(()),
            false => Err(ServeError::new(
                ErrorCode::Unsupported,
                "shared memory of clients is disabled; start the server with `--allow-client-shm` if every client is trusted",
            )),
        }
    }

    /// Registers part of a shared memory object by a name.
    ///
    /// # Errors
    /// `Unsupported` if the server was not told to allow it, `AlreadyExists` for a name in use,
    /// `InvalidArgument` for a key that is not one or an object that is not there or too small,
    /// `ResourceExhausted` for too many.
    pub fn register(&self, status: RegionStatus) -> Result<(), ServeError> {
        self.check_allowed()?;
        let RegionStatus { name, key, offset, byte_size } = &status;
        let wrong = |reason: String| {
            let name = name.escape_debug();
            let message = format!("failed to register shared memory region `{name}`: {reason}");
            ServeError::new(ErrorCode::InvalidArgument, message)
        };
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(wrong(format!("expected a name of 1 to {NAME_BYTES_MAX} bytes")));
        }
        let file = object_name(key).map_err(&wrong)?;
        let file = open(file).map_err(|reason| wrong(format!("key `{key}`: {reason}")))?;
        let has = size(&file).map_err(|error| wrong(error.to_string()))?;
        match offset.checked_add(*byte_size) {
            Some(end) if *byte_size > 0 && end <= has => {}
            _ => {
                return Err(wrong(format!(
                    "expected 1 or more bytes inside the object's {has}; got {byte_size} from offset {offset}"
                )));
            }
        }
        let mut regions = self.lock();
        if regions.contains_key(name) {
            let message = format!("shared memory region `{name}` is registered already");
            return Err(ServeError::new(ErrorCode::AlreadyExists, message));
        }
        if regions.len() >= REGIONS_MAX {
            let message =
                format!("{REGIONS_MAX} regions are registered, which is the limit; unregister one");
            return Err(ServeError::new(ErrorCode::ResourceExhausted, message));
        }
        regions.insert(name.clone(), Arc::new(Region { file, status }));
        Ok(())
    }

    /// Forgets a region, or all of them. Requests that use it go on; a name that is not registered
    /// is none to forget.
    ///
    /// # Errors
    /// `Unsupported` if the server was not told to allow it.
    pub fn unregister(&self, name: Option<&str>) -> Result<(), ServeError> {
        self.check_allowed()?;
        match name {
            Some(name) => drop(self.lock().remove(name)),
            None => self.lock().clear(),
        }
        Ok(())
    }

    /// The region of this name, or all of them by name.
    ///
    /// # Errors
    /// `NotFound` for a name that is not registered.
    pub fn status(&self, name: Option<&str>) -> Result<Vec<RegionStatus>, ServeError> {
        match name {
            Some(name) => Ok(vec![self.find(name)?.status.clone()]),
            None => Ok(self.lock().values().map(|region| region.status.clone()).collect()),
        }
    }

    /// The regions of CUDA devices: none.
    ///
    /// # Errors
    /// `NotFound` for any name.
    pub fn cuda_status(name: Option<&str>) -> Result<(), ServeError> {
        let Some(name) = name else { return Ok(()) };
        let message = format!("unable to find cuda shared memory region `{}`", name.escape_debug());
        Err(ServeError::new(ErrorCode::NotFound, message))
    }

    /// Why memory of CUDA devices is not registered.
    pub fn no_cuda() -> ServeError {
        ServeError::new(
            ErrorCode::Unsupported,
            "CUDA shared memory is not supported: requests are gathered in the host's memory; register system shared memory, or send tensors in the message",
        )
    }

    fn find(&self, name: &str) -> Result<Arc<Region>, ServeError> {
        self.lock().get(name).cloned().ok_or_else(|| {
            let name = name.escape_debug();
            let message = format!("unable to find system shared memory region `{name}`");
            ServeError::new(ErrorCode::NotFound, message)
        })
    }

    /// The part of a region that a tensor names, in the object: where it begins, and the region.
    fn part(&self, tensor: &str, part: &SharedPart) -> Result<(Arc<Region>, u64), ServeError> {
        self.check_allowed()?;
        let region = self.find(&part.region)?;
        let has = region.status.byte_size;
        let end = part.offset.checked_add(part.byte_size);
        let begin = region.status.offset.checked_add(part.offset);
        match (end, begin) {
            (Some(end), Some(begin)) if end <= has => Ok((region, begin)),
            _ => Err(ServeError::new(
                ErrorCode::InvalidArgument,
                format!(
                    "tensor `{tensor}` names {} bytes from offset {} of shared memory region `{}`, which has {has}",
                    part.byte_size, part.offset, part.region
                ),
            )),
        }
    }

    /// Reads the inputs that are in shared memory into their places, and holds the outputs' places
    /// against the regions.
    ///
    /// # Errors
    /// `Unsupported`, `NotFound` and `InvalidArgument`, as for regions; `FailedPrecondition` for one
    /// whose object has shrunk.
    pub async fn read(
        self: &Arc<Self>,
        mut request: InferRequest,
        tensors: &SharedTensors,
    ) -> Result<InferRequest, ServeError> {
        let parts = tensors.inputs.iter().map(|input| (&input.name, &input.part));
        let parts = parts.chain(tensors.outputs.iter().map(|output| (&output.name, &output.part)));
        let mut bytes = 0u64;
        for (tensor, part) in parts {
            self.part(tensor, part)?;
            bytes = bytes.saturating_add(part.byte_size);
        }
        if bytes > REQUEST_BYTES_MAX {
            let message = format!(
                "the request has {bytes} bytes in shared memory; at most {REQUEST_BYTES_MAX} are accepted"
            );
            return Err(ServeError::new(ErrorCode::TooLarge, message));
        }
        let (shared, inputs) = (self.clone(), tensors.inputs.clone());
        let read = offload(bytes, move || {
            inputs.into_iter().map(|input| Ok((input.at, shared.load(input)?))).collect()
        });
        let read: Vec<(usize, NamedTensor)> = read.await?;
        for (at, input) in read {
            request.inputs.insert(at.min(request.inputs.len()), input);
        }
        Ok(request)
    }

    fn load(&self, input: SharedInput) -> Result<NamedTensor, ServeError> {
        let SharedInput { name, dtype, shape, part, .. } = input;
        let (region, begin) = self.part(&name, &part)?;
        // Told before anything is allocated by a size that the shape contradicts.
        if let Some(each) = dtype.size() {
            let want = shape.elements().checked_mul(each).map(|want| want as u64);
            if want != Some(part.byte_size) {
                let message = format!(
                    "input `{name}`: {dtype} tensor of shape {shape} needs {} bytes; `shared_memory_byte_size` is {}",
                    want.unwrap_or(u64::MAX),
                    part.byte_size
                );
                return Err(ServeError::new(ErrorCode::InvalidArgument, message));
            }
        }
        region.check(begin, part.byte_size)?;
        let mut data = vec![0; usize::try_from(part.byte_size).unwrap_or(usize::MAX)];
        region.file.read_exact_at(&mut data, begin).map_err(|error| region.failed(&error))?;
        protocol::input(&name, dtype, shape, data.into()).map_err(|e| ServeError::from_coded(&e))
    }

    /// Writes the outputs that are to go to shared memory there. The response keeps them; the
    /// adapter leaves their bytes out.
    ///
    /// # Errors
    /// `InvalidArgument` for an output that does not fit its part, else as [`SharedMemory::read`].
    pub async fn write(
        self: &Arc<Self>,
        response: &InferResponse,
        tensors: &SharedTensors,
    ) -> Result<(), ServeError> {
        let mut writes = Vec::new();
        let mut bytes = 0;
        for output in &tensors.outputs {
            let tensor = response.outputs.iter().find(|tensor| tensor.name == output.name);
            let Some(tensor) = tensor else { continue };
            let data = tensor.tensor.data().clone();
            let (region, begin) = self.part(&output.name, &output.part)?;
            if data.len() as u64 > output.part.byte_size {
                let message = format!(
                    "output `{}` needs {} bytes; its part of shared memory region `{}` has {}",
                    output.name,
                    data.len(),
                    output.part.region,
                    output.part.byte_size
                );
                return Err(ServeError::new(ErrorCode::InvalidArgument, message));
            }
            bytes += data.len() as u64;
            writes.push((region, begin, data));
        }
        offload(bytes, move || {
            writes.into_iter().try_for_each(|(region, begin, data)| {
                region.check(begin, data.len() as u64)?;
                region.file.write_all_at(&data, begin).map_err(|error| region.failed(&error))
            })
        })
        .await
    }
}

impl Region {
    /// Whether the object still has these bytes.
    fn check(&self, begin: u64, bytes: u64) -> Result<(), ServeError> {
        let has = size(&self.file).map_err(|error| self.failed(&error))?;
        match begin.checked_add(bytes) {
            Some(end) if end <= has => Ok(()),
            _ => Err(self.shrank(has)),
        }
    }

    fn failed(&self, error: &io::Error) -> ServeError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.shrank(size(&self.file).unwrap_or(0)),
            io::ErrorKind::StorageFull => ServeError::new(
                ErrorCode::StorageFull,
                format!("no memory is left for shared memory region `{}`", self.status.name),
            ),
            _ => ServeError::new(
                ErrorCode::FailedPrecondition,
                format!("shared memory region `{}` cannot be used: {error}", self.status.name),
            ),
        }
    }

    fn shrank(&self, has: u64) -> ServeError {
        let RegionStatus { name, offset, byte_size, .. } = &self.status;
        let message = format!(
            "shared memory region `{name}` has shrunk: it was registered as {byte_size} bytes from offset {offset}, and its object now has {has}; register it anew"
        );
        ServeError::new(ErrorCode::FailedPrecondition, message)
    }
}

/// The file that a key means: `/name` or `name`, with no way to another directory.
fn object_name(key: &str) -> Result<&str, String> {
    let name = key.strip_prefix('/').unwrap_or(key);
    let plain = !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0'])
        && name.len() <= NAME_BYTES_MAX;
    match plain {
        true => Ok(name),
        false => Err(format!(
            "key `{}`: expected a shared memory object's name, without `/` but for the first character",
            key.chars().take(64).collect::<String>().escape_debug()
        )),
    }
}

/// Opens an object without following a link or waiting for a pipe.
fn open(name: &str) -> Result<File, String> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open(Path::new(DIRECTORY).join(name), flags, Mode::empty());
    let file = File::from(fd.map_err(|error| match error {
        rustix::io::Errno::NOENT => "there is no such shared memory object".to_owned(),
        other => format!("the shared memory object cannot be opened: {other}"),
    })?);
    match file.metadata() {
        Ok(meta) if meta.is_file() => Ok(file),
        Ok(_) => Err("it is not a shared memory object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn size(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.size())
}

async fn offload<T: Send + 'static>(
    bytes: u64,
    work: impl FnOnce() -> Result<T, ServeError> + Send + 'static,
) -> Result<T, ServeError> {
    if bytes <= OFFLOAD_BYTES {
        return work();
    }
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(ServeError::new(ErrorCode::Internal, "copying from shared memory failed"))
    })
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use mizzen_types::{Coded, DataType, Shape};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::fp32;

    /// An object that goes with it.
    struct Object {
        key: String,
    }

    impl Object {
        fn new(bytes: u64) -> Self {
            use std::sync::atomic::{AtomicU64, Ordering};
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            let object = Self { key: format!("/mizzen-test-{}-{next}", std::process::id()) };
            File::create_new(object.path()).unwrap().set_len(bytes).unwrap();
            object
        }

        fn path(&self) -> std::path::PathBuf {
            Path::new(DIRECTORY).join(&self.key[1..])
        }
    }

    impl Drop for Object {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(self.path());
        }
    }

    fn region(name: &str, key: &str, offset: u64, byte_size: u64) -> RegionStatus {
        RegionStatus { name: name.to_owned(), key: key.to_owned(), offset, byte_size }
    }

    fn registered(object: &Object, bytes: u64) -> Arc<SharedMemory> {
        let shared = Arc::new(SharedMemory::new(true));
        shared.register(region("r", &object.key, 0, bytes)).unwrap();
        shared
    }

    fn part(offset: u64, byte_size: u64) -> SharedPart {
        SharedPart { region: "r".to_owned(), offset, byte_size }
    }

    fn input(offset: u64, byte_size: u64) -> SharedTensors {
        let (dtype, shape) = (DataType::Fp32, Shape::new([1, 4]).unwrap());
        let input =
            SharedInput { at: 0, name: "x".into(), dtype, shape, part: part(offset, byte_size) };
        SharedTensors { inputs: vec![input], outputs: Vec::new() }
    }

    fn output(offset: u64, byte_size: u64) -> SharedTensors {
        let part = part(offset, byte_size);
        let outputs =
            vec![mizzen_serving_core::shared_memory::SharedOutput { name: "y".into(), part }];
        SharedTensors { inputs: Vec::new(), outputs }
    }

    fn request() -> InferRequest {
        InferRequest {
            model: "m".into(),
            version: None,
            id: String::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            parameters: Default::default(),
            timeout: None,
            priority: 0,
        }
    }

    fn response() -> InferResponse {
        let outputs = vec![fp32("y", &[1, 4], &[1.0, 2.0, 3.0, 4.0])];
        let (model, version, id) = ("m".into(), "1".into(), String::new());
        InferResponse { model, version, id, outputs, parameters: Default::default() }
    }

    #[tokio::test]
    async fn a_tensor_goes_there_and_comes_back() {
        let object = Object::new(64);
        let shared = registered(&object, 64);
        shared.write(&response(), &output(16, 32)).await.unwrap();
        let back = shared.read(request(), &input(16, 16)).await.unwrap();
        assert_eq!(back.inputs[0].tensor.data(), response().outputs[0].tensor.data());
        assert_eq!(shared.status(None).unwrap(), [region("r", &object.key, 0, 64)]);
        shared.unregister(Some("r")).unwrap();
        shared.unregister(Some("r")).unwrap();
        let gone = shared.read(request(), &input(16, 16)).await.unwrap_err();
        assert_eq!(gone.code(), ErrorCode::NotFound);
    }

    #[tokio::test]
    async fn nothing_is_done_unless_allowed() {
        let object = Object::new(64);
        let shared = Arc::new(SharedMemory::new(false));
        let refused = [
            shared.register(region("r", &object.key, 0, 64)).unwrap_err(),
            shared.unregister(None).unwrap_err(),
            shared.read(request(), &input(0, 16)).await.unwrap_err(),
        ];
        for error in refused {
            assert_eq!(error.code(), ErrorCode::Unsupported);
            assert!(error.to_string().contains("--allow-client-shm"), "{error}");
        }
        assert_eq!(shared.status(None).unwrap(), []);
    }

    #[test]
    fn what_is_no_shared_memory_is_refused() {
        let object = Object::new(64);
        let link = Object::new(1);
        std::fs::remove_file(link.path()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", link.path()).unwrap();
        let pipe = Object::new(1);
        std::fs::remove_file(pipe.path()).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            pipe.path(),
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let key = object.key.as_str();
        #[rustfmt::skip]
        let cases = [
            // what the case shows  region                                error
            ("another directory",   region("a", "/../etc/passwd", 0, 1),  "without `/`"),
            ("a path",              region("a", "/a/b", 0, 1),            "without `/`"),
            ("the directory",       region("a", "/..", 0, 1),             "without `/`"),
            ("no key",              region("a", "/", 0, 1),               "without `/`"),
            ("a NUL",               region("a", "a\0b", 0, 1),            "without `/`"),
            ("nothing there",       region("a", "/mizzen-none", 0, 1),    "there is no such shared memory object"),
            ("a link",              region("a", &link.key, 0, 1),         "cannot be opened"),
            ("a pipe",              region("a", &pipe.key, 0, 1),         "not a shared memory object"),
            ("too large",           region("a", key, 0, 65),              "inside the object's 64; got 65 from offset 0"),
            ("beyond the end",      region("a", key, 60, 5),              "got 5 from offset 60"),
            ("an overflow",         region("a", key, u64::MAX, 2),        "inside the object's 64"),
            ("no bytes",            region("a", key, 0, 0),               "expected 1 or more bytes"),
            ("no name",             region("", key, 0, 1),                "expected a name"),
        ];
        let shared = SharedMemory::new(true);
        for (shows, region, want) in cases {
            let error = shared.register(region).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{shows}");
            assert!(error.to_string().contains(want), "{shows}: {error}");
        }
        shared.register(region("a", key, 0, 64)).unwrap();
        let twice = shared.register(region("a", key, 0, 64)).unwrap_err();
        assert_eq!(twice.code(), ErrorCode::AlreadyExists);
    }

    #[tokio::test]
    async fn a_region_that_shrinks_is_an_error_and_not_the_end() {
        let object = Object::new(1 << 16);
        let shared = registered(&object, 1 << 16);
        File::options().write(true).open(object.path()).unwrap().set_len(8).unwrap();
        let read = shared.read(request(), &input(4096, 16)).await.unwrap_err();
        let write = shared.write(&response(), &output(4096, 16)).await.unwrap_err();
        for error in [read, write] {
            assert_eq!(error.code(), ErrorCode::FailedPrecondition);
            assert!(error.to_string().contains("has shrunk"), "{error}");
            assert!(error.to_string().contains("now has 8"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_output_that_does_not_fit_says_what_it_needs() {
        let object = Object::new(64);
        let shared = registered(&object, 64);
        let error = shared.write(&response(), &output(0, 8)).await.unwrap_err();
        let want = "output `y` needs 16 bytes; its part of shared memory region `r` has 8";
        assert_eq!(error.to_string(), want);
    }

    proptest! {
        #[test]
        fn no_part_leads_out_of_its_region(offset in any::<u64>(), bytes in any::<u64>()) {
            let object = Object::new(256);
            let shared = SharedMemory::new(true);
            shared.register(region("r", &object.key, 64, 128)).unwrap();
            let inside = u128::from(offset) + u128::from(bytes) <= 128;
            prop_assert_eq!(shared.part("x", &part(offset, bytes)).is_ok(), inside);
            prop_assert!(shared.part("x", &part(offset % 129, 128 - offset % 129)).is_ok());
        }
    }
}
