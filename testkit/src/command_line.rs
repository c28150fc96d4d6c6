//! Finding programs, and installing those that Debian's package manager can bring.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Command;

/// Finds `program` in `PATH`; if it is absent, installs the Debian `package` once and looks again.
///
/// Panics with instructions when the package cannot be installed: a test that needs a program must not pass without it.
pub(crate) fn find_or_install(program: &str, package: &str) -> PathBuf {
    if let Some(path) = find(program) {
        return path;
    }
    // Two test binaries may arrive here together; the second finds the program when the first is done.
    let lock_path = std::env::temp_dir().join(format!("lovage-install-{package}"));
    let lock =
        OpenOptions::new().create(true).truncate(false).write(true).open(lock_path).expect("the install lock can be opened");
    lock.lock().expect("the install lock can be taken");
    let trouble = match find(program) {
        Some(path) => return path,
        None => install(package),
    };
    find(program).unwrap_or_else(|| {
        panic!(
            "`{program}` is not installed and could not be installed ({}); run `sudo apt-get install {package}` and repeat the tests",
            trouble.err().unwrap_or_else(|| "the package does not contain it".to_owned())
        )
    })
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian keeps some servers in sbin, which an ordinary user's PATH may lack.
    let folders = std::env::split_paths(&path).chain(["/usr/local/bin", "/usr/bin", "/usr/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn install(package: &str) -> Result<(), String> {
    // Package lists are often absent from container images, so the first failure is worth an update.
    apt_get(&["install", "-y", "--no-install-recommends", package])
        .or_else(|_| apt_get(&["update"]).and_then(|()| apt_get(&["install", "-y", "--no-install-recommends", package])))
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let prefix: &[&str] = if is_root { &["env"] } else { &["sudo", "-n", "env"] };
    // RUNLEVEL=1 keeps the package from starting the server it brings as a system service.
    let output = Command::new(prefix[0])
        .args(&prefix[1..])
        .args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .output()
        .map_err(|error| format!("cannot run {}: {error}", prefix[0]))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("apt-get {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_program_is_found() {
        assert!(find_or_install("sh", "dash").ends_with("sh"));
    }

    #[test]
    fn an_absent_program_is_not_found() {
        assert_eq!(find("no-such-program-as-this"), None);
    }
}
