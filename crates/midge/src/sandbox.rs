//! What the configuration names is what the process may still open; what a reload names must lie there, too.
//!
//! Files are replaced by other files of the same name (an editor, a renewed certificate), so it is their directory that
//! may be read, and where a link leads to, that directory as well.

use std::{
    env,
    ffi::OsString,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use midge_config::{Address, Config, SandboxMode};
use midge_reactor::disk::DataDirectory;
use midge_sandbox::Places;

use crate::{failure::Failure, instance, settings::Settings};

/// What the process was held to.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// Nothing, where it is off or the kernel has no rules for files.
    bounds: Option<Bounds>,
    /// For the log, which does not run yet.
    pub(crate) line: String,
}

/// Where files may lie, without links.
#[derive(Debug, Default)]
struct Bounds {
    readable: Vec<PathBuf>,
    writable: Vec<PathBuf>,
    sockets: Vec<PathBuf>,
}

/// What a broker reads of any machine: the kernel's numbers, names of hosts, authorities that sign for others, and the
/// libraries that look names up.
const OF_THE_MACHINE: &[&str] = &[
    "/proc",
    "/sys",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ld.so.cache",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    // SUSE's /etc/ssl is links to it.
    "/var/lib/ca-certificates",
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    // Where NixOS and Guix have all of these: everybody may read it.
    "/nix/store",
    "/gnu/store",
];

/// Where much lies that is none of a broker's business: a file right in one of these opens all of it. Homes and the root are
/// told apart by [`is_wide`].
const WIDE: &[&str] = &[
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/srv",
    "/tmp",
    "/usr",
    "/usr/local",
    "/usr/local/etc",
    "/usr/share",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/run",
    "/var/spool",
    "/var/tmp",
];

/// Who tells where names of hosts are asked.
const RESOLVER: &str = "/etc/resolv.conf";

impl Sandbox {
    /// Holds this thread, and all that it will start, to what these settings need. Call it before there are others.
    ///
    /// # Errors
    /// Where it is required and this kernel has not both parts, or a place that was written down is not there.
    pub(crate) fn enter(settings: &Settings, config: Option<&Path>) -> Result<Self, Failure> {
        let sandbox = &settings.config().sandbox;
        if sandbox.mode == SandboxMode::Off {
            return Ok(Self { bounds: None, line: "sandbox: off".into() });
        }
        for (list, paths) in [("readable", &sandbox.readable), ("writable", &sandbox.writable)] {
            for (place, path) in paths.iter().enumerate() {
                fs::metadata(path).map_err(|error| {
                    let key = format!("sandbox.{list}[{place}]");
                    let what = format!("cannot open {}: {error}", path.display());
                    Failure::configuration(settings.loaded.problem(&key, &what))
                })?;
            }
        }
        // Landlock does not hold a thread that is there already.
        debug_assert!(fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1));
        let bounds = Bounds::of(settings.config(), config, settings.data_directory.as_deref());
        let files = midge_sandbox::restrict_files(&bounds.places());
        let calls = midge_sandbox::refuse_calls();
        if sandbox.mode == SandboxMode::Required {
            let missing = files.as_ref().err().or(calls.as_ref().err());
            if let Some(reason) = missing {
                let what = format!("required, but {reason}; set auto to start all the same");
                return Err(Failure::configuration(settings.loaded.problem("sandbox.mode", &what)));
            }
        }
        let files_said = match &files {
            Ok(extent) => format!("only files that the configuration names (landlock, {extent})"),
            Err(reason) => format!("any file, for {reason}"),
        };
        let calls_said = match &calls {
            Ok(()) => "no other programs, users and namespaces (seccomp)".to_owned(),
            Err(reason) => format!("any system call, for {reason}"),
        };
        let line = format!("sandbox: {files_said}; {calls_said}");
        Ok(Self { bounds: files.is_ok().then_some(bounds), line })
    }

    /// What of a new configuration lies where this process cannot reach: one sentence each.
    pub(crate) fn out_of_reach(&self, config: &Config) -> Vec<String> {
        let Some(bounds) = &self.bounds else { return Vec::new() };
        let mut sentences = Vec::new();
        for (key, path) in files(config) {
            if !bounds.may_read(path) {
                sentences.push(unreachable(&key, path, "readable"));
            }
        }
        for (index, listener) in config.listeners.iter().enumerate() {
            if let Address::Unix(path) = &listener.address
                && !contains(&bounds.sockets, path)
                && !contains(&bounds.writable, path)
            {
                let key = format!("listeners[{index}].address");
                sentences.push(unreachable(&key, path, "writable"));
            }
        }
        sentences
    }

    /// What an operator should know about these settings: of directories that are wider than they need be, and what will not be
    /// found for as long as before.
    pub(crate) fn warnings(&self, config: &Config, file: Option<&Path>) -> Vec<String> {
        wide(config, file).into_iter().chain(self.names_warning(config)).collect()
    }

    fn names_warning(&self, config: &Config) -> Option<String> {
        let bounds = self.bounds.as_ref()?;
        let lasts = !asks_by_name(config) || contains(&bounds.readable, Path::new("/etc"));
        (!lasts).then(|| {
            format!(
                "security: a host is named, and since its start the broker can read {RESOLVER} and /etc/hosts only \
                 until they are replaced by other files; restart it, or put /etc into sandbox.readable before"
            )
        })
    }

    /// As [`Sandbox::out_of_reach`], of the configuration's own file.
    pub(crate) fn file_out_of_reach(&self, config: &Path) -> Option<String> {
        let bounds = self.bounds.as_ref()?;
        let what = "the configuration";
        (!bounds.may_read(config)).then(|| unreachable(what, config, "readable"))
    }
}

/// Directories that are opened with all that is in them because one file lies right there: a sentence each.
pub(crate) fn wide(config: &Config, file: Option<&Path>) -> Vec<String> {
    let home = env::var_os("HOME").map(PathBuf::from);
    wide_but_for(config, file, home.as_deref())
}

fn wide_but_for(config: &Config, file: Option<&Path>, home: Option<&Path>) -> Vec<String> {
    if config.sandbox.mode == SandboxMode::Off {
        return Vec::new();
    }
    let configuration = file.map(|path| ("the configuration".to_owned(), path));
    let read =
        configuration.into_iter().chain(files(config)).map(|(key, path)| (key, path, "read"));
    let audit = config.audit.file.as_deref();
    let written = audit.map(|path| ("audit.file".to_owned(), path, "write"));
    let sockets = config.listeners.iter().enumerate().filter_map(|(index, listener)| {
        Some((format!("listeners[{index}].address"), listener.address.path()?, "make sockets in"))
    });
    let mut told: Vec<(PathBuf, &str)> = Vec::new();
    let mut sentences = Vec::new();
    for (key, path, may) in read.chain(written).chain(sockets) {
        for directory in around(path) {
            let Ok(directory) = fs::canonicalize(directory) else { continue };
            if !is_wide(&directory, home) || told.contains(&(directory.clone(), may)) {
                continue;
            }
            let shown = directory.display();
            sentences.push(format!(
                "{key}: {} lies right in {shown}, so the sandbox lets the broker {may} everything there and below; put it \
                 into a directory of its own, such as {}",
                path.display(),
                directory.join("midge").display()
            ));
            told.push((directory, may));
        }
    }
    sentences
}

/// Whether a directory, without links, is one in which others keep what they have.
fn is_wide(directory: &Path, home: Option<&Path>) -> bool {
    let is_home = directory.parent() == Some(Path::new("/home"))
        || home.is_some_and(|home| fs::canonicalize(home).is_ok_and(|home| home == directory));
    directory == Path::new("/") || is_home || WIDE.iter().any(|wide| directory == Path::new(wide))
}

fn unreachable(key: &str, path: &Path, list: &str) -> String {
    format!(
        "{key}: {} lies where the broker has given up to look since its start; restart it, or put its directory \
         into sandbox.{list} before",
        path.display()
    )
}

impl Bounds {
    fn of(config: &Config, file: Option<&Path>, data_directory: Option<&Path>) -> Self {
        let mut readable: Vec<PathBuf> = OF_THE_MACHINE.iter().map(PathBuf::from).collect();
        readable.extend(authorities(env::var_os("SSL_CERT_FILE"), env::var_os("SSL_CERT_DIR")));
        // Each new address of the machine may bring a new file: that of a service, behind a link, or one in /etc itself. All
        // of /etc is much, so only where it is needed.
        let names = asks_by_name(config);
        let of_names = around(Path::new(RESOLVER)).into_iter();
        readable.extend(of_names.filter(|directory| names || directory != Path::new("/etc")));
        for path in file.into_iter().chain(files(config).iter().map(|(_, path)| *path)) {
            readable.extend(around(path));
        }
        readable.extend(config.sandbox.readable.iter().cloned());

        // A place can only be named when it is there. What cannot be made is told by whoever needs it.
        let runtime = instance::base(config.runtime.directory.as_deref());
        let mut writable = vec![PathBuf::from("/dev/null")];
        if instance::make_base(&runtime).is_ok() {
            writable.push(runtime);
        }
        if let Some(directory) = data_directory {
            _ = DataDirectory::make(directory);
            writable.push(directory.to_owned());
        }
        if let Some(file) = &config.audit.file {
            writable.extend(around(file));
        }
        writable.extend(config.sandbox.writable.iter().cloned());

        let sockets = config.listeners.iter().filter_map(|listener| listener.address.path());
        let sockets: Vec<PathBuf> = sockets.flat_map(around).collect();
        let plain = |paths: Vec<PathBuf>| -> Vec<PathBuf> {
            paths.into_iter().filter_map(|path| fs::canonicalize(path).ok()).collect()
        };
        Self { readable: plain(readable), writable: plain(writable), sockets: plain(sockets) }
    }

    fn places(&self) -> Places {
        let Self { readable, writable, sockets } = self;
        Places { readable: readable.clone(), writable: writable.clone(), sockets: sockets.clone() }
    }

    fn may_read(&self, path: &Path) -> bool {
        contains(&self.readable, path) || contains(&self.writable, path)
    }
}

/// Where authorities are that the environment names; the variables are those of the library that reads them.
fn authorities(file: Option<OsString>, directories: Option<OsString>) -> Vec<PathBuf> {
    let file = file.iter().flat_map(|file| around(Path::new(file)));
    file.chain(directories.iter().flat_map(env::split_paths)).collect()
}

/// Whether a host has to be looked up.
fn asks_by_name(config: &Config) -> bool {
    let security = &config.security;
    let service = security.http.as_ref().map(|http| http.url.as_str());
    let keys = security.jwt.as_ref().and_then(|jwt| jwt.jwks_url.as_deref());
    service.into_iter().chain(keys).any(has_name)
}

/// Whether there is a name in a URL where its host stands, and no number.
fn has_name(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let before_port = host.split_once(':').map_or(host, |(host, _)| host);
    // Brackets are for the numbers of IPv6.
    !host.starts_with('[') && before_port.parse::<Ipv4Addr>().is_err()
}

/// The directory of a file, and that of the file behind it if it is a link. Of a file right below the root only itself: the
/// whole system is no directory of ours.
fn around(path: &Path) -> Vec<PathBuf> {
    let real = fs::canonicalize(path).ok();
    [Some(path), real.as_deref()]
        .into_iter()
        .flatten()
        .map(|path| match path.parent() {
            Some(parent) if parent == Path::new("") => PathBuf::from("."),
            Some(parent) if parent != Path::new("/") => parent.to_owned(),
            _ => path.to_owned(),
        })
        .collect()
}

/// Whether what stands behind a path lies in one of the places. A file that is not there yet lies where its directory does.
fn contains(places: &[PathBuf], path: &Path) -> bool {
    let real = fs::canonicalize(path).ok().or_else(|| {
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        Some(fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?.join(path.file_name()?))
    });
    // Of what leads nowhere, whoever opens it says why.
    real.is_none_or(|real| places.iter().any(|place| real.starts_with(place)))
}

/// Every file that a configuration has the broker read, with its key.
fn files(config: &Config) -> Vec<(String, &Path)> {
    let mut files: Vec<(String, &Path)> = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        let key = |field: &str| format!("listeners[{index}].tls.{field}");
        files.push((key("certificate"), &tls.certificate));
        files.push((key("key"), &tls.key));
        for (place, named) in tls.certificates.iter().enumerate() {
            files.push((key(&format!("certificates[{place}].certificate")), &named.certificate));
            files.push((key(&format!("certificates[{place}].key")), &named.key));
        }
        files.extend(tls.client_ca.iter().map(|path| (key("client_ca"), path.as_path())));
        for (place, path) in tls.crl.iter().enumerate() {
            files.push((key(&format!("crl[{place}]")), path));
        }
    }
    let security = &config.security;
    let (jwt, http) = (security.jwt.as_ref(), security.http.as_ref());
    let optional = [
        ("password_file", security.password_file.as_ref()),
        ("scram_file", security.scram_file.as_ref()),
        ("acl_file", security.acl_file.as_ref()),
        ("jwt.secret_file", jwt.and_then(|jwt| jwt.secret_file.as_ref())),
        ("jwt.public_key_file", jwt.and_then(|jwt| jwt.public_key_file.as_ref())),
        ("jwt.jwks_file", jwt.and_then(|jwt| jwt.jwks_file.as_ref())),
        ("http.authorization_file", http.and_then(|http| http.authorization_file.as_ref())),
    ];
    files.extend(
        optional
            .into_iter()
            .filter_map(|(key, path)| Some((format!("security.{key}"), path?.as_path()))),
    );
    files
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Each file of the tree is among those that may be read: whoever adds one to the settings is reminded here.
    #[test]
    fn every_file_of_the_settings_is_known() {
        let text = r#"
listeners:
  - address: 127.0.0.1:1
    protocol: tls
    tls:
      certificate: f/1
      key: f/2
      certificates: [{server_names: [a.example], certificate: f/3, key: f/4}]
      client_certificates: required
      client_ca: f/5
      crl: [f/6]
security:
  password_file: f/7
  scram_file: f/8
  acl_file: f/9
  jwt: {secret_file: f/10, public_key_file: f/11, jwks_file: f/12}
  http: {url: "http://127.0.0.1:1/", authorization_file: f/13}
"#;
        let config = midge_config::parse(text, "test").expect("sound").config;
        let found: Vec<&Path> = files(&config).into_iter().map(|(_, path)| path).collect();
        let shown = serde_json::to_string(&config).expect("JSON");
        assert_eq!(shown.matches("\"f/").count(), 13);
        assert_eq!(found.len(), 13);
        // Keys of the settings that name a file say so; `directory` and audit.file are written.
        let defaults = midge_config::DEFAULT_FILE;
        let keys = defaults.lines().filter(|line| line.contains("_file:")).count();
        assert_eq!(keys, 7, "a new file: list it in `files`");
    }

    /// Whoever renews /etc/resolv.conf or /etc/hosts puts another file in its place, which a rule for the old one does not
    /// open.
    #[test]
    fn files_of_names_may_be_replaced_where_hosts_are_named() {
        for (url, expected) in [
            ("https://a.example/keys", true),
            ("https://a.example", true),
            ("https://a.example:8443?x=1", true),
            ("http://localhost:80/", true),
            ("https://192.0.2.1@a.example/", true),
            ("https://192.0.2.1/a.example", false),
            ("https://a.example@192.0.2.1:443/", false),
            ("https://[2001:db8::1]:443/", false),
        ] {
            let mut config = Config::default();
            config.security.jwt = Some(midge_config::Jwt {
                jwks_url: Some(url.into()),
                ..midge_config::Jwt::default()
            });
            let sandbox = |config: &Config| Sandbox {
                bounds: Some(Bounds::of(config, None, None)),
                line: String::new(),
            };
            let reads_etc = sandbox(&config).bounds.is_some_and(|bounds| {
                bounds.may_read(Path::new("/etc/resolv.conf.new"))
                    && bounds.may_read(Path::new("/etc"))
            });
            assert_eq!(reads_etc, expected, "{url}");
            assert_eq!(sandbox(&config).names_warning(&config), None, "{url}");
            let later = sandbox(&Config::default()).names_warning(&config);
            assert_eq!(later.is_some(), expected, "{url}: {later:?}");
        }
    }

    /// Whoever puts a file right into a directory that others use is told what that opens, once for each.
    #[test]
    fn wide_directories_are_named() {
        let root = env::temp_dir().join(format!("midge-wide-{}", std::process::id()));
        fs::create_dir_all(root.join("conf")).expect("a directory");
        fs::create_dir_all(root.join("home")).expect("a directory");
        let home = root.join("home");
        let config = |acl: &str, password: &str| {
            let mut config = Config::default();
            config.security.acl_file = Some(acl.into());
            config.security.password_file = Some(password.into());
            config
        };
        let own = |name: &str| root.join("conf").join(name).display().to_string();
        let of =
            |config: &Config, file: &str| wide_but_for(config, Some(Path::new(file)), Some(&home));
        assert_eq!(of(&config(&own("acl"), &own("users")), &own("midge.yaml")), [""; 0]);
        let said = of(&config("/etc/acl", "/etc/users"), "/etc/midge.yaml");
        assert_eq!(said.len(), 1, "{said:?}");
        for part in [
            "the configuration: /etc/midge.yaml",
            "in /etc,",
            "read everything",
            "such as /etc/midge",
        ] {
            assert!(said[0].contains(part), "{part} in {said:?}");
        }
        let in_home = home.join("midge.yaml").display().to_string();
        let said = of(&config("/etc/acl", &own("users")), &in_home);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[1].starts_with("security.acl_file: /etc/acl lies right in /etc"), "{said:?}");
        // A link leads there.
        symlink(home.join("midge.yaml"), root.join("conf/link")).expect("a link");
        fs::write(home.join("midge.yaml"), "").expect("a file");
        assert_eq!(of(&Config::default(), &own("link")).len(), 1);
        // What is written, and where sockets are made.
        let mut config = Config::default();
        config.audit.file = Some("/var/log/midge-audit.log".into());
        config.listeners[0].address = Address::Unix("/tmp/midge.socket".into());
        let said = of(&config, &own("midge.yaml"));
        assert!(said[0].contains("write everything") && said[1].contains("sockets in"), "{said:?}");
        config.sandbox.mode = SandboxMode::Off;
        assert_eq!(of(&config, "/etc/midge.yaml"), [""; 0]);
        fs::remove_dir_all(&root).expect("ours");
    }

    #[test]
    fn authorities_of_the_environment_lie_in_several_places() {
        let found = authorities(Some("/a/b/ca.pem".into()), Some("/c/d:/e".into()));
        assert_eq!(found, ["/a/b", "/c/d", "/e"].map(PathBuf::from));
        assert_eq!(authorities(None, None), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn what_lies_elsewhere_is_out_of_reach() {
        let root = env::temp_dir().join(format!("midge-bounds-{}", std::process::id()));
        for below in ["conf", "real/deep", "elsewhere"] {
            fs::create_dir_all(root.join(below)).expect("a directory");
        }
        fs::write(root.join("real/deep/acl"), "").expect("a file");
        fs::write(root.join("elsewhere/acl"), "").expect("a file");
        symlink(root.join("real/deep/acl"), root.join("conf/acl")).expect("a link");
        let mut config = Config::default();
        config.runtime.directory = Some(root.join("run"));
        config.security.acl_file = Some(root.join("conf/acl"));
        let bounds = Bounds::of(&config, None, None);
        let sandbox = Sandbox { bounds: Some(bounds), line: String::new() };
        let said = |name: &str| {
            let mut config = Config::default();
            config.security.acl_file = Some(root.join(name));
            sandbox.out_of_reach(&config)
        };
        // The link, what it leads to, and what will be there.
        for name in ["conf/acl", "real/deep/acl", "conf/new", "real/deep/new"] {
            assert_eq!(said(name), [""; 0], "{name}");
        }
        assert_eq!(said("elsewhere/acl").len(), 1);
        // A link that is among ours leads out of it.
        symlink(root.join("elsewhere/acl"), root.join("conf/out")).expect("a link");
        assert_eq!(said("conf/out").len(), 1);
        let mut config = Config::default();
        config.listeners[0].address = Address::Unix(root.join("conf/socket"));
        assert_eq!(sandbox.out_of_reach(&config).len(), 1);
        config.listeners[0].address = Address::Unix(root.join("run/socket"));
        assert_eq!(sandbox.out_of_reach(&config), [""; 0]);
        assert!(sandbox.file_out_of_reach(&root.join("elsewhere/midge.yaml")).is_some());
        fs::remove_dir_all(&root).expect("ours");
    }
}
