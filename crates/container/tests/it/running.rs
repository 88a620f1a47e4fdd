//! Commands in a container.

use sprite_container::User;

use crate::fixture::{Machine, Setup, can_run};

#[test]
fn a_command_runs_as_the_default_user_in_its_home() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    assert!(machine.container.as_ref().unwrap().warnings.is_empty(), "{:?}", machine.container);
    let out = machine.shell(User::Sprite, "id; pwd; env; ls -la / /dev; cat /proc/self/mountinfo /proc/self/cgroup; ps; ls -l /proc/self/fd; cat /proc/uptime");
    println!("{out:?}");
    println!("{}", out.stdout);
}
