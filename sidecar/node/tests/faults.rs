//! Random faults on the simulated cluster: cuts, outages, kills, stops, restarts, hand-overs, skewed clocks, from a seed.
//! Proves: never two nodes serving (the world asserts it after every event); and when the faults stop, service is back
//! within twice the wait plus what functions and workload take, with everybody in sync soon after.
//! Another seed or more of them: `FAULT_SEED=17 FAULT_SEEDS=1 cargo test --release --test faults`.

mod world;

use world::World;

/// splitmix64 (Steele, Lea, Flood 2014): enough to scatter faults.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[allow(clippy::disallowed_methods, reason = "a test's own knobs")]
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn random_faults_never_make_two_serve_and_service_comes_back() {
    let (first, count) = (setting("FAULT_SEED", 1), setting("FAULT_SEEDS", 300));
    let mut failovers = 0;
    for seed in first..first + count {
        failovers += run(seed);
    }
    assert!(count < 100 || failovers > count, "{failovers} failovers in {count} seeds: the faults are too tame");
}

fn run(seed: u64) -> u64 {
    let result = std::panic::catch_unwind(|| story(seed));
    match result {
        Ok(failovers) => failovers,
        Err(panic) => {
            eprintln!("replay: FAULT_SEED={seed} FAULT_SEEDS=1 cargo test --release -p node --test faults");
            std::panic::resume_unwind(panic);
        }
    }
}

fn story(seed: u64) -> u64 {
    let mut dice = Dice(seed);
    let names: &[&'static str] = if dice.roll(3) == 0 { &["a", "b", "c"] } else { &["a", "b"] };
    let mut world = World::of(names);
    for name in names {
        world.hosts.get_mut(name).expect("a node").clock_percent = 91 + dice.roll(19);
    }
    let mut stopped: Vec<&'static str> = Vec::new();
    world.run(2_000 + dice.roll(4_000));
    for _ in 0..20 {
        let one = names[usize::try_from(dice.roll(names.len() as u64)).expect("small")];
        let other = names[usize::try_from(dice.roll(names.len() as u64)).expect("small")];
        match dice.roll(14) {
            0 => world.cut(one, other),
            1 => drop(world.cuts.insert((one, other))),
            2 => world.cuts.clear(),
            3 => drop(world.no_table.insert(one)),
            4 => world.no_table.extend(names),
            5 => world.no_table.clear(),
            6 => world.kill_daemon(one),
            7 => world.power_off(one),
            8 => world.boot(one),
            9 => {
                world.sigstop(one);
                stopped.push(one);
            }
            10 => stopped.drain(..).for_each(|name| world.sigcont(name)),
            11 => world.mute_table = !world.mute_table,
            12 => world.no_functions = !world.no_functions,
            _ => {
                let free = world.row.as_ref().is_some_and(|row| {
                    row.intent.is_none() && row.holder.as_ref().is_some_and(|holder| holder.node.as_str() != one)
                });
                if free {
                    world.intend(one);
                }
            }
        }
        world.run(dice.roll(6_000));
    }
    heal(&mut world, names, &mut stopped);
    let back = 2 * world.policy.wait_ms.0 + 8_000;
    world.run_until(back, |world| world.serving_now().is_some());
    world.run_until(20_000, |world| world.in_sync() == names.len() && world.serving_now().is_some());
    world.epoch()
}

fn heal(world: &mut World, names: &[&'static str], stopped: &mut Vec<&'static str>) {
    world.cuts.clear();
    world.no_table.clear();
    world.mute_table = false;
    world.no_functions = false;
    stopped.drain(..).for_each(|name| world.sigcont(name));
    for name in names {
        if world.hosts[name].node.is_none() {
            world.boot(name);
        }
    }
}
