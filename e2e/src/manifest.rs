//! Manifests that the tests apply.

/// A VM with one disk and one interface.
pub struct Vm<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its image.
    pub image: &'a str,
    /// The StoragePool of its disk; the default one if there is none.
    pub pool: Option<&'a str>,
    /// Its network; none for a VM without interfaces.
    pub network: Option<&'a str>,
    /// Its CPUs, as YAML.
    pub cpus: &'a str,
    /// Its memory, as YAML.
    pub memory: &'a str,
    /// The MAC address of its interface.
    pub mac: Option<&'a str>,
    /// Its run strategy.
    pub run_strategy: &'a str,
}

impl Default for Vm<'_> {
    fn default() -> Self {
        Self {
            name: "vm",
            image: "guest",
            pool: None,
            network: None,
            cpus: "1",
            memory: "128Mi",
            mac: None,
            run_strategy: "Always",
        }
    }
}

impl Vm<'_> {
    /// The manifest.
    pub fn yaml(&self) -> String {
        let Self { name, image, pool, network, cpus, memory, mac, run_strategy } = self;
        let mac = mac.map_or(String::new(), |mac| format!(", mac: \"{mac}\""));
        let pool = pool.map_or(String::new(), |pool| format!(", pool: {pool}"));
        let networks =
            network.map_or(String::new(), |network| format!("  networks: [{{name: net0, network: {network}{mac}}}]\n"));
        format!(
            "apiVersion: ucloud.ungleich.ch/v1alpha1\nkind: VM\nmetadata: {{name: {name}}}\nspec:\n  runStrategy: {run_strategy}\n  \
             cpus: {cpus}\n  memory: {memory}\n  disks: [{{name: root, image: {image}{pool}}}]\n{networks}"
        )
    }
}

/// An Image from a file in the import folder.
pub fn image(name: &str, file: &str, extra: &str) -> String {
    format!(
        "apiVersion: ucloud.ungleich.ch/v1alpha1\nkind: Image\nmetadata: {{name: {name}}}\n\
         spec:\n  format: qcow2\n  source: {{file: {{name: {file}}}}}\n{extra}"
    )
}

/// A Network with automatic addresses.
pub fn network(name: &str) -> String {
    format!(
        "apiVersion: ucloud.ungleich.ch/v1alpha1\nkind: Network\nmetadata: {{name: {name}}}\nspec: {{ipam: Automatic}}\n"
    )
}
