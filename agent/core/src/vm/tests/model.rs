//! A model host and API server, with an agent that may be killed before and after any step: the end is the same,
//! and so is the number of creations and deletions.

use std::collections::BTreeSet;

use proptest::prelude::*;
use ucloud_types::{
    condition::Time,
    vm::{RestoreRequest, RestoredDisk},
};

use super::*;

/// Something that happens to a VM from outside.
#[derive(Clone, Copy, Debug)]
enum Event {
    Order(PowerAction),
    Strategy(RunStrategy),
    GuestShutsDown,
    GuestCrashes,
    HostBoots,
    Plug,
    Unplug,
    Rebind,
    Restore,
    Delete,
}

/// How often the host was asked to make or remove something that was not so already.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counts {
    starts: u32,
    disks_made: u32,
    networks_made: u32,
    domains_removed: u32,
    disks_removed: u32,
    networks_removed: u32,
    plugged: u32,
    unplugged: u32,
}

struct World {
    vm: VM,
    gone: bool,
    domain: Option<Domain>,
    disks: BTreeSet<String>,
    networks: BTreeSet<String>,
    obedient: bool,
    /// How often a guest that is not obedient was asked to let go of an interface.
    asked: u32,
    counts: Counts,
    /// Whether the guest may have written to its disks since a restore of them was asked for.
    written: bool,
    now: i64,
}

/// What is lost when the agent is killed.
#[derive(Default)]
struct Agent {
    memory: Memory,
    confirmed: bool,
    provisioned: Option<Provisioned>,
}

/// Where an agent is killed: the number of steps until then, and whether the step was carried out still.
type Kill = (u8, bool);

impl World {
    fn new(strategy: RunStrategy, obedient: bool) -> Self {
        Self {
            vm: vm(strategy),
            gone: false,
            domain: None,
            disks: BTreeSet::new(),
            networks: BTreeSet::new(),
            obedient,
            asked: 0,
            counts: Counts::default(),
            written: false,
            now: 0,
        }
    }

    fn happen(&mut self, event: Event) {
        let status = self.vm.status.as_mut().unwrap();
        let running = self.domain.as_mut().filter(|domain| domain.state == DomainState::Running);
        match event {
            Event::Order(action) => {
                let id = status.power_request.as_ref().map_or(1, |request| request.id + 1);
                status.power_request = Some(PowerRequest { id, action });
            }
            Event::Strategy(strategy) => {
                self.vm.spec.run_strategy = Some(strategy);
                self.vm.metadata.generation = self.vm.metadata.generation.map(|generation| generation + 1);
            }
            // As the API server allows it
            Event::Restore => {
                let seen = status.observed_generation == self.vm.metadata.generation;
                let halted = self.vm.spec.run_strategy == Some(RunStrategy::Halted);
                if halted && seen && status.phase == Some(VMPhase::Stopped) {
                    let id = status.restore_request.as_ref().map_or(1, |request| request.id + 1);
                    let root = RestoredDisk { name: "root".into(), volume_uid: None, image_uid: "image-uid".into() };
                    let request = RestoreRequest { id, snapshot: "kept".into(), disks: vec![root] };
                    status.restore_request = Some(request);
                    self.written = false;
                }
            }
            Event::Plug if self.vm.spec.networks.len() == 1 => {
                let mut second = self.vm.spec.networks[0].clone();
                second.name = "eth1".into();
                self.vm.spec.networks.push(second);
            }
            Event::Plug => {}
            Event::Unplug => self.vm.spec.networks.truncate(1),
            Event::Rebind => status.binding.as_mut().unwrap().epoch += 1,
            Event::Delete => self.vm.metadata.deletion_timestamp = Some(Time(at(0))),
            Event::GuestShutsDown | Event::GuestCrashes | Event::HostBoots => {
                if let Some(domain) = running {
                    domain.state = DomainState::Off(match event {
                        Event::GuestShutsDown => StopReason::Shutdown,
                        Event::GuestCrashes => StopReason::Crashed,
                        _ => StopReason::Unknown,
                    });
                }
            }
        }
    }

    fn observe(&self, agent: &mut Agent, desired: &Desired, pace: &Pace) -> Observed {
        let state = self.domain.as_ref().map(|domain| domain.state);
        if !matches!(state, Some(DomainState::Running | DomainState::Paused)) {
            agent.memory.shutdown = None;
        }
        let interfaces = || self.domain.iter().flat_map(|domain| &domain.spec.interfaces);
        agent.memory.unplugging.retain(|name, _| interfaces().any(|interface| interface.name == *name));
        let ran = matches!(desired.phase, Some(VMPhase::Running | VMPhase::Stopping));
        agent.memory.crashes.observe(state, ran, pace, at(self.now));
        Observed {
            domain: self.domain.clone(),
            disks: Ok(if self.disks.is_empty() { Vec::new() } else { vec![found_disk()] }),
            own_networks: Ok(self.networks.iter().cloned().collect()),
            devices: Some(vec![(!self.networks.is_empty()).then(devices); desired.interfaces.len()]),
            network_blockers: vec![None; desired.interfaces.len()],
            disk_blockers: vec![None; desired.disks.len()],
            disk_states: vec![DiskState::default(); desired.disks.len()],
            confirmed: agent.confirmed,
            provisioned: agent.provisioned.clone(),
            memory: agent.memory.clone(),
            ..nothing()
        }
    }

    fn carry_out(&mut self, agent: &mut Agent, step: &Step, restart: bool) {
        match step {
            Step::PlugDisk(_) | Step::UnplugDisk(_) | Step::GrowDisk(..) | Step::ReleaseVolume(_) => {
                panic!("this VM has no volumes: {step:?}")
            }
            Step::Confirm => agent.confirmed = true,
            Step::Provision => {
                self.counts.networks_made += u32::from(self.networks.insert("net-uid".into()));
                self.counts.disks_made += u32::from(self.disks.insert("root".into()));
                let interfaces = self.vm.spec.networks.iter().map(|i| (i.name.clone(), devices()));
                agent.provisioned = Some(Provisioned { interfaces: interfaces.collect(), ..provisioned() });
            }
            Step::ProvisionInterface(_) => {
                self.counts.networks_made += u32::from(self.networks.insert("net-uid".into()));
            }
            Step::Plug(interface) => {
                let interfaces = &mut self.domain.as_mut().unwrap().spec.interfaces;
                assert!(interfaces.iter().all(|there| there.tap != interface.tap), "it was plugged over another");
                interfaces.push((**interface).clone());
                self.counts.plugged += 1;
            }
            Step::Unplug(interface) => {
                let asked = Asked::again(agent.memory.unplugging.get(&interface.name).copied(), at(self.now));
                agent.memory.unplugging.insert(interface.name.clone(), asked);
                self.asked += 1;
                if self.obedient || self.asked == 3 {
                    self.asked = 0;
                    self.domain.as_mut().unwrap().spec.interfaces.retain(|there| there != &**interface);
                    self.counts.unplugged += 1;
                }
            }
            Step::Restore(request) => {
                assert!(self.domain.is_none(), "disks were taken from a domain");
                assert!(!self.written, "a restore has cost what a guest wrote after it");
                agent.memory.restore = Some(EndedRestore { id: request.id, done: true });
            }
            Step::Start(spec) => {
                assert_eq!(self.vm.pending_restore(), None, "it runs on disks that are about to be restored");
                self.written = true;
                self.domain = Some(Domain { spec: (**spec).clone(), state: DomainState::Running });
                self.counts.starts += 1;
                agent.memory.crashes.started(restart);
            }
            Step::RequestShutdown => {
                let now = at(self.now);
                agent.memory.shutdown = Some(Asked::again(agent.memory.shutdown, now));
                if self.obedient {
                    self.domain.as_mut().unwrap().state = DomainState::Off(StopReason::Shutdown);
                }
            }
            Step::Destroy => self.domain.as_mut().unwrap().state = DomainState::Off(StopReason::Destroyed),
            Step::Undefine => {
                assert_ne!(self.domain.take().unwrap().state, DomainState::Running);
                self.counts.domains_removed += 1;
            }
            Step::RemoveDisks(disks) => {
                assert!(self.domain.is_none(), "a disk was taken from a domain");
                self.counts.disks_removed += u32::try_from(disks.len()).unwrap();
                self.disks.clear();
            }
            Step::ReleaseNetworks(networks) => {
                assert!(self.domain.is_none(), "a network was taken from a domain");
                self.counts.networks_removed += u32::try_from(networks.len()).unwrap();
                self.networks.clear();
            }
            Step::DropFinalizer => self.gone = true,
        }
    }

    fn report(&mut self, desired: &Desired, observed: &Observed, plan: &Plan) {
        let current = self.vm.status.clone().unwrap();
        self.vm.status = Some(next_status(&current, desired, Some(observed), plan, &Facts::default(), at(self.now)));
    }

    /// Lets agents work until there is nothing left to do. Each of `kills` ends one of them.
    fn settle(&mut self, kills: &mut Vec<Kill>) {
        let pace = Pace::default();
        let mut agent = Agent::default();
        let mut steps = 0;
        for _ in 0..500 {
            if self.gone {
                return;
            }
            let desired = desired(&self.vm);
            let observed = self.observe(&mut agent, &desired, &pace);
            let plan = plan(&desired, &observed, &pace, at(self.now));
            assert!(!plan.retry, "{plan:?}");
            let killed = kills.last().is_some_and(|(after, _)| *after == steps);
            let carried_out = !killed || kills.last().is_some_and(|(_, carried_out)| *carried_out);
            steps = steps.saturating_add(1);
            match &plan.step {
                Some(step) => {
                    if matches!(step, Step::Confirm | Step::RequestShutdown) {
                        self.report(&desired, &observed, &plan);
                    }
                    if carried_out {
                        self.carry_out(&mut agent, step, plan.restart);
                    }
                }
                None if carried_out => self.report(&desired, &observed, &plan),
                None => {}
            }
            if killed {
                kills.pop();
                steps = 0;
                agent = Agent::default();
            } else if plan.step.is_none() && plan.ended_restore.is_none() {
                match plan.requeue_after {
                    Some(wait) => self.now += wait.as_secs().max(1),
                    None => return,
                }
            }
        }
        panic!("it never came to rest");
    }

    fn end(&self) -> impl PartialEq + std::fmt::Debug {
        let status = self.vm.status.clone().unwrap();
        let domain = self.domain.as_ref().map(|d| (d.spec.clone(), d.state == DomainState::Running));
        (
            (self.gone, domain, self.disks.clone(), self.networks.clone()),
            self.counts.clone(),
            (status.phase, status.observed_power_request, status.observed_restore),
        )
    }
}

fn strategies() -> impl Strategy<Value = RunStrategy> {
    prop_oneof![
        Just(RunStrategy::Always),
        Just(RunStrategy::RerunOnFailure),
        Just(RunStrategy::Manual),
        Just(RunStrategy::Halted)
    ]
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => prop_oneof![Just(PowerAction::Start), Just(PowerAction::Stop), Just(PowerAction::Restart)].prop_map(Event::Order),
        2 => strategies().prop_map(Event::Strategy),
        1 => Just(Event::GuestShutsDown),
        1 => Just(Event::GuestCrashes),
        1 => Just(Event::HostBoots),
        2 => prop_oneof![Just(Event::Plug), Just(Event::Unplug)],
        1 => Just(Event::Rebind),
        2 => Just(Event::Restore),
        1 => Just(Event::Delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn an_agent_may_be_killed_at_any_step(
        strategy in strategies(),
        obedient: bool,
        script in prop::collection::vec(events(), 0..8),
        kills in prop::collection::vec(prop::collection::vec((0..8u8, any::<bool>()), 0..6), 9),
    ) {
        let mut calm = World::new(strategy, obedient);
        let mut rough = World::new(strategy, obedient);
        calm.settle(&mut Vec::new());
        rough.settle(&mut kills[0].clone());
        prop_assert_eq!(calm.end(), rough.end());
        for (event, kills) in script.into_iter().zip(&kills[1..]) {
            calm.happen(event);
            rough.happen(event);
            calm.settle(&mut Vec::new());
            rough.settle(&mut kills.clone());
            prop_assert_eq!(calm.end(), rough.end(), "after {:?}", event);
        }
        if calm.gone {
            prop_assert!(calm.domain.is_none() && calm.disks.is_empty() && calm.networks.is_empty());
            prop_assert_eq!(calm.counts.disks_made, calm.counts.disks_removed);
            prop_assert_eq!(calm.counts.networks_made, calm.counts.networks_removed);
        }
    }

    /// Whatever happened while nobody looked, the last wish is obeyed.
    #[test]
    fn the_last_wish_is_obeyed(
        strategy in strategies(),
        script in prop::collection::vec(events(), 0..6),
        last in prop_oneof![Just(PowerAction::Start), Just(PowerAction::Stop), Just(PowerAction::Restart)],
    ) {
        let mut world = World::new(strategy, true);
        world.settle(&mut Vec::new());
        for event in script {
            world.happen(event);
        }
        world.happen(Event::Order(last));
        world.settle(&mut Vec::new());
        if !world.gone {
            let runs = world.domain.as_ref().is_some_and(|domain| domain.state == DomainState::Running);
            let expected = match world.vm.spec.effective_run_strategy() {
                RunStrategy::Always => true,
                RunStrategy::Halted => false,
                RunStrategy::Manual | RunStrategy::RerunOnFailure => last != PowerAction::Stop,
            };
            prop_assert_eq!(runs, expected);
            let status = world.vm.status.unwrap();
            prop_assert_eq!(status.observed_power_request, status.power_request.map(|request| request.id));
            prop_assert_eq!(status.observed_restore, status.restore_request.map(|request| request.id));
        }
    }
}
