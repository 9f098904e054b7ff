//! The cost of bytes in the package at a start: unread bytes, and bytes that the start reads.
//!
//! The package is already unpacked, as in a Lambda environment; Lambda's own work before that is not measured.

use crate::Result;
use crate::subjects::Subject;
use std::fs;
use std::path::Path;

/// The added bytes, and whether the start reads them.
const PADDINGS: [(&str, &str, usize, bool); 4] = [
    ("edge-8-unread", "edge package, 8 MB more", 8, false),
    ("edge-8-read", "edge package, 8 MB more, read", 8, true),
    ("edge-45-unread", "edge package, 45 MB more", 45, false),
    ("edge-45-read", "edge package, 45 MB more, read", 45, true),
];

/// Python code before the carrier; Lambda starts a function in the folder of its package.
const READING: &str = "open('padding', 'rb').read()\n";

/// The edge package as it ships, and larger ones.
pub(crate) fn padded(shipped: &Subject, root: &Path) -> Result<Vec<Subject>> {
    let mut all = vec![shipped.clone()];
    for (name, label, megabytes, is_read) in PADDINGS {
        let mut subject = shipped.with(name, label, &[]);
        subject.folder = root.join("target/bench").join(name);
        let _ = fs::remove_dir_all(&subject.folder);
        fs::create_dir_all(&subject.folder)?;
        for file in fs::read_dir(&shipped.folder)? {
            let file = file?;
            fs::copy(file.path(), subject.folder.join(file.file_name()))?;
        }
        fs::write(subject.folder.join("padding"), vec![0x5a; megabytes * 1_000_000])?;
        if is_read {
            let carrier = subject.folder.join("carrier.py");
            fs::write(&carrier, READING.to_owned() + &fs::read_to_string(&carrier)?)?;
        }
        all.push(subject);
    }
    Ok(all)
}
