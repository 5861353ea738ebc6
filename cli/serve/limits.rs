//! What the flags of `mizzen serve` that bound clients come to.

use std::fs;

use mizzen_serving_server::ServerOptions;
use mizzen_types::ErrorCode;

use super::ServeSettings;
use crate::failure::{Failure, Result};

impl ServeSettings {
    /// The bounds that these flags set, the others as they are.
    pub(super) fn limit(&self, options: &mut ServerOptions) -> Result<()> {
        if let Some(bytes) = self.http_max_input_size {
            options.http_service.intake.bytes_max = bytes;
        }
        if let Some(connections) = self.max_connections_per_client {
            if connections == 0 {
                return Err(wrong(
                    "--max-connections-per-client: expected 1 or more, got 0".into(),
                ));
            }
            options.limits.connections_per_client_max = connections;
        }
        let one = options.http_service.intake.bytes_max;
        let most = options.http_service.intake.memory.bytes_max();
        let memory = match self.max_request_memory {
            Some(bytes) if bytes < one => {
                return Err(wrong(format!(
                    "--max-request-memory: expected room for one request of --http-max-input-size, {one} bytes, got {bytes}"
                )));
            }
            Some(bytes) => bytes,
            // The other half is for models, and for what they make of requests.
            None => memory_bytes().map_or(most, |there_is| most.min(there_is / 2)).max(one),
        };
        options.set_request_memory(memory);
        Ok(())
    }
}

/// The memory that this process may use: the machine's, or less if its container has less. None
/// where the system does not say.
fn memory_bytes() -> Option<usize> {
    let cgroups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let containers =
        cgroups.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    containers.chain(machine).min()
}

fn total(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

fn wrong(message: String) -> Failure {
    Failure::new(ErrorCode::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(flags: ServeSettings) -> Result<ServerOptions> {
        let mut options = ServerOptions::default();
        flags.limit(&mut options).map(|()| options)
    }

    #[test]
    fn both_protocols_share_one_memory_with_room_for_a_request() {
        let flags = ServeSettings { max_request_memory: Some(100 << 20), ..Default::default() };
        let options = limited(flags).unwrap();
        let (http, grpc) = (&options.http_service.intake, &options.grpc_service.intake);
        let mut share = http.memory.share();
        share.grow(100 << 20).unwrap();
        assert!(grpc.memory.share().grow(1).is_err());

        let options = limited(ServeSettings::default()).unwrap();
        let held = options.grpc_service.intake.memory.bytes_max();
        assert!((64 << 20..=4 << 30).contains(&held), "{held}");
        let large = ServeSettings { http_max_input_size: Some(5 << 30), ..Default::default() };
        assert_eq!(limited(large).unwrap().http_service.intake.memory.bytes_max(), 5 << 30);
    }

    #[test]
    fn a_bound_that_lets_nothing_in_is_refused() {
        let small = ServeSettings { max_request_memory: Some(1000), ..Default::default() };
        let none = ServeSettings { max_connections_per_client: Some(0), ..Default::default() };
        for (flags, want) in
            [(small, "--max-request-memory"), (none, "--max-connections-per-client")]
        {
            let error = format!("{:?}", limited(flags).unwrap_err());
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn the_machines_memory_is_read_off() {
        assert_eq!(total("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16 << 10));
        assert_eq!(total(""), None);
    }
}
