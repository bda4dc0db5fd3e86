//! A small disk of a test's own, and something to fill it with.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// More than the server wants to be free, and little enough to be filled quickly.
const SIZE: &str = "size=24m";

/// Runs this where the directory is a small disk of its own, which nobody else sees: a mount belongs to the thread that
/// made it, and to those it starts.
pub(crate) fn on_a_small_disk(dir: &Path, run: impl FnOnce() + Send) {
    let mounted = || -> nix::Result<()> {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        mount(Some("small"), dir, Some("tmpfs"), MsFlags::empty(), Some(SIZE))
    };
    std::thread::scope(|scope| {
        let test = scope.spawn(|| match mounted() {
            Ok(()) => run(),
            Err(error) => eprintln!("skipped: a mount of its own wants root ({error})"),
        });
        if let Err(panic) = test.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Takes all the space there is.
pub(crate) fn fill(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).expect("a file");
    let block = [7; 4096];
    while file.write_all(&block).is_ok() {}
}
