//! The ledger as a JSON file.
//!
//! The rule: whoever reads the file finds a whole ledger, never half of one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Ledger;

/// Why a ledger was not written.
#[derive(Debug, thiserror::Error)]
#[error("writing the ledger to {path}: {step}")]
pub struct LedgerError {
    /// The file that was asked for.
    pub path: PathBuf,
    /// What was being done.
    pub step: &'static str,
    /// What the system said.
    #[source]
    pub cause: io::Error,
}

impl Ledger {
    /// The ledger as JSON, indented, with a line end.
    pub fn json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self)
            .expect("a ledger is plain numbers and strings with string keys");
        json.push('\n');
        json
    }

    /// Writes the JSON to `path`: to a file beside it first, which then takes its name.
    ///
    /// `-` is standard output. A link is followed; a device or pipe (`/dev/stdout`) is written to as it is. Fails where the
    /// folder is missing, full or not ours to write to, and then leaves what was there.
    pub fn write(&self, path: &Path) -> Result<(), LedgerError> {
        let fault = |step, cause| LedgerError {
            path: path.to_owned(),
            step,
            cause,
        };
        let json = self.json();
        if path == Path::new("-") {
            let written = io::stdout().write_all(json.as_bytes());
            return written.map_err(|cause| fault("writing to standard output", cause));
        }
        if fs::metadata(path).is_ok_and(|known| !known.is_file()) {
            return fs::write(path, json).map_err(|cause| fault("writing", cause));
        }
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let Some(name) = target.file_name() else {
            let cause = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(fault("the path names no file", cause));
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.tmp", std::process::id()));
        let beside = target.with_file_name(hidden);

        let mut file =
            File::create(&beside).map_err(|cause| fault("creating a file beside it", cause))?;
        let written = file
            .write_all(json.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|cause| fault("writing", cause))
            .and_then(|()| fs::rename(&beside, &target).map_err(|cause| fault("naming it", cause)));
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Board, Phase, SinkKind};

    fn ledger() -> Ledger {
        Board::new(SinkKind::Discard, "").snapshot(Phase::Drained)
    }

    #[test]
    fn a_ledger_replaces_the_file_of_its_name_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.json");
        fs::write(&path, "old").unwrap();
        ledger().write(&path).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(read["balanced"], true);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named_with_its_cause() {
        let error = ledger()
            .write(Path::new("/nowhere/ledger.json"))
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("writing the ledger to /nowhere/ledger.json"),
            "{text}"
        );
        assert_eq!(error.cause.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        ledger().write(Path::new("/dev/null")).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
