//! The README's tour and the examples' page, repeated: every `$ ` line of a `console` block is run, in order and in one
//! shell, and what it prints is compared with the page. `…` in a page stands for any text within a line.
//!
//! Only addresses are replaced: the server, the workers and the binary are those of this test.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use lovage_tests::{Lovage, Port, lovage_binary, signal, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_tour_of_the_readme_is_true() {
    let lovage = Lovage::dev().start().await;
    assert_eq!(repeat("README.md", &lovage), 17);
}

#[tokio::test]
async fn the_page_of_the_examples_is_true() {
    let lovage = Lovage::dev().start().await;
    assert_eq!(repeat("examples/README.md", &lovage), 10);
}

#[tokio::test]
async fn the_page_of_the_task_types_is_true() {
    let lovage = Lovage::dev().start().await;
    assert_eq!(repeat("docs/task-types.md", &lovage), 6);
}

#[tokio::test]
async fn the_page_of_tasks_in_bulk_is_true() {
    let lovage = Lovage::dev().start().await;
    assert_eq!(repeat("docs/tasks-in-bulk.md", &lovage), 6);
}

#[tokio::test]
async fn the_page_of_looking_into_tasks_is_true() {
    let lovage = Lovage::dev().start().await;
    assert_eq!(repeat("docs/looking-into-tasks.md", &lovage), 4);
}

#[test]
fn a_line_is_compared_piece_by_piece() {
    assert!(is_like("a…c", "abc") && is_like("…", "") && is_like("a…", "a") && is_like("a…b…c", "a b b c"));
    assert!(!is_like("a…c", "abcd") && !is_like("ab", "abc") && !is_like("aa…a", "aa") && !is_like("…x…", "abc"));
}

/// A command of a page and the lines that follow it.
struct Step {
    command: String,
    output: Vec<String>,
}

impl Step {
    fn wait(&self, condition: impl FnMut() -> bool) {
        wait_until(&format!("`{}` to print\n{}", self.command, self.output.join("\n")), PATIENCE, condition);
    }
}

/// Repeats a page; returns the number of its commands.
fn repeat(page: &str, lovage: &Lovage) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join(page)).unwrap();
    let steps = steps(&text);
    let mut shell = Shell::start(&root, lovage);
    for step in &steps {
        shell.run(step);
    }
    steps.len()
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            _ => match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command: command.to_owned(), output: Vec::new() }),
                None => steps.last_mut().expect("a block begins with a command").output.push(line.to_owned()),
            },
        }
    }
    steps
}

/// Whether `line` is `pattern` with any text for each `…`.
fn is_like(pattern: &str, line: &str) -> bool {
    let pieces: Vec<&str> = pattern.split('…').collect();
    let [first, middle @ .., last] = pieces.as_slice() else { return pattern == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for piece in middle {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

/// One shell for all commands of a page, as its reader has.
struct Shell {
    child: Child,
    input: ChildStdin,
    home: tempfile::TempDir,
    /// Text of the page and what stands for it here.
    replace: Vec<(&'static str, String)>,
    ports: [(&'static str, Port); 2],
    done: usize,
}

impl Shell {
    fn start(root: &Path, lovage: &Lovage) -> Self {
        let home = tempfile::Builder::new().prefix("lovage-page-").tempdir().unwrap();
        let file = |name: &str| fs::File::create(home.path().join(name)).unwrap();
        let mut child = Command::new("sh")
            .current_dir(root)
            .env("LOVAGE_URL", lovage.url())
            .env_remove("LOVAGE_KEY")
            .stdin(Stdio::piped())
            .stdout(file("out"))
            .stderr(file("err"))
            // A group of its own, so that the workers of the page end with it.
            .process_group(0)
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let ports = [("examples/worker.py", Port::reserve()), ("examples/receiver.py", Port::reserve())];
        let [worker, receiver] = [ports[0].1.number(), ports[1].1.number()];
        let replace = vec![
            ("localhost:8275", lovage.url().trim_start_matches("http://").to_owned()),
            ("127.0.0.1:8000", format!("127.0.0.1:{worker}")),
            ("127.0.0.1:8001", format!("127.0.0.1:{receiver}")),
            ("python3 examples/worker.py", format!("PORT={worker} python3 examples/worker.py")),
            ("python3 examples/receiver.py", format!("PORT={receiver} python3 examples/receiver.py")),
            ("target/release/lovage", lovage_binary().display().to_string()),
        ];
        Self { child, input, home, replace, ports, done: 0 }
    }

    fn run(&mut self, step: &Step) {
        let here = |text: &str| self.replace.iter().fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours));
        let (command, expected) = (here(&step.command), step.output.iter().map(|line| here(line)).collect::<Vec<_>>());
        if let Some(server) = command.strip_suffix(" &") {
            let (out, err) = (self.path("background"), self.path("background.err"));
            self.feed(&format!("{server} >>{} 2>>{} &", out.display(), err.display()));
            let (_, port) = self.ports.iter().find(|(name, _)| command.contains(name)).expect("a program of this page");
            let port = port.number();
            step.wait(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        }
        let before = self.read("out").len();
        let command = if command.ends_with('&') { String::new() } else { command };
        self.done += 1;
        let mark = format!("-- end of command {} --", self.done);
        self.feed(&format!("{command}\nprintf '\\n%s\\n' '{mark}'"));
        step.wait(|| self.read("out")[before..].contains(&mark));
        step.wait(|| {
            let said = self.read("out")[before..].to_owned() + &self.read("background");
            expected.iter().all(|pattern| said.lines().any(|line| is_like(pattern, line)))
        });
    }

    fn feed(&mut self, text: &str) {
        writeln!(self.input, "{text}").unwrap();
        self.input.flush().unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        signal::kill_group(&mut self.child);
        if std::thread::panicking() {
            for name in ["out", "err", "background", "background.err"] {
                eprintln!("{name} of the page's shell:\n{}", self.read(name));
            }
        }
    }
}
