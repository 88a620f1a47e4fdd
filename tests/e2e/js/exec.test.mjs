import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ExecError, SpritesClient, client, collect, exited, home, shared } from './harness.mjs';

test('exec splits words and returns the output', async () => {
  const { stdout, stderr, exitCode } = await shared.exec('echo hello world');
  assert.deepEqual([stdout, stderr, exitCode], ['hello world\n', '', 0]);
});

test('execFile keeps arguments apart', async () => {
  const { stdout } = await shared.execFile('printf', ['[%s]', 'a b', '', 'ü&=+%']);
  assert.equal(stdout, '[a b][][ü&=+%]');
});

test('execFile takes env, cwd and encoding', async () => {
  const script = 'echo "$A|$B"; pwd; printf "\\377\\000"';
  const { stdout } = await shared.execFile('sh', ['-c', script], {
    env: { A: '1', B: 'x=y z' }, cwd: '/tmp', encoding: 'buffer',
  });
  assert.deepEqual(stdout, Buffer.concat([Buffer.from('1|x=y z\n/tmp\n'), Buffer.from([255, 0])]));
  assert.equal((await shared.execFile('pwd')).stdout, `${home}\n`);
});

test('a failing command rejects with its code and output', async () => {
  await assert.rejects(shared.execFile('sh', ['-c', 'echo out; echo err >&2; exit 42']), (error) => {
    assert.ok(error instanceof ExecError);
    assert.deepEqual([error.exitCode, error.stdout, error.stderr], [42, 'out\n', 'err\n']);
    return true;
  });
  await assert.rejects(shared.execFile('no-such-command-anywhere'), { exitCode: 127 });
});

test('output beyond the buffers is complete', async () => {
  const { stdout } = await shared.execFile('seq', ['1', '500000']);
  assert.equal(stdout.split('\n').length, 500_001);
});

test('more output than asked for ends the command', async () => {
  await assert.rejects(shared.execFile('yes', [], { maxBuffer: 1024 * 1024 }), /maxBuffer/);
});

test('spawn streams both ways', async () => {
  const command = shared.spawn('sh', ['-c', 'while read line; do echo "got $line"; done; echo end >&2; exit 3']);
  const output = collect(command);
  const exit = exited(command);
  await new Promise((resolve) => command.once('spawn', resolve));
  command.stdin.write('one\n');
  await output.until('got one\n');
  command.stdin.write('two\n');
  await output.until('got two\n');
  command.stdin.end();
  assert.equal(await exit, 3);
  assert.equal(output.stderr, 'end\n');
  assert.equal(command.exitCode(), 3);
  assert.equal(await command.wait(), 3);
});

test('large input arrives unchanged', async () => {
  const command = shared.spawn('sha256sum');
  const output = collect(command);
  const exit = exited(command);
  await new Promise((resolve) => command.once('spawn', resolve));
  command.stdin.end(Buffer.alloc(1024 * 1024, 'x'));
  assert.equal(await exit, 0);
  const { createHash } = await import('node:crypto');
  const expected = createHash('sha256').update(Buffer.alloc(1024 * 1024, 'x')).digest('hex');
  assert.equal(output.stdout.split(' ')[0], expected);
});

test('a terminal echoes, has a size and can be resized', async () => {
  const script = 'stty size; while read line; do stty size; done';
  const command = shared.spawn('sh', ['-c', script], { tty: true, rows: 31, cols: 99 });
  const output = collect(command);
  const exit = exited(command);
  await output.until('31 99');
  command.resize(120, 40);
  command.stdin.write('\r');
  await output.until('40 120');
  command.stdin.write('\x04');
  assert.equal(await exit, 0);
});

test('a terminal whose command fails exits with 1', async () => {
  // All the SDK knows of a terminal is whether the socket closed normally.
  const command = shared.spawn('sh', ['-c', 'exit 7'], { tty: true });
  const output = collect(command);
  assert.equal(await exited(command), 1);
  const exit = output.messages.find((message) => message.type === 'exit');
  assert.equal(exit.exit_code, 7);
});

test('signals reach the command', async () => {
  const command = shared.spawn('sh', ['-c', 'trap "echo caught; exit 5" USR1; echo ready; while :; do sleep 0.1; done']);
  const output = collect(command);
  const exit = exited(command);
  await output.until('ready');
  command.signal('USR1');
  assert.equal(await exit, 5);
  assert.match(output.stdout, /caught/);
  const sleeper = shared.spawn('sleep', ['300']);
  const ended = exited(sleeper);
  await new Promise((resolve) => sleeper.once('spawn', resolve));
  sleeper.kill();
  assert.equal(await ended, 143);
});

test('execFileHTTP runs commands without a WebSocket', async () => {
  const { stdout, stderr } = await shared.execFileHTTP('sh', ['-c', 'echo out; echo err >&2; pwd; echo $A'], {
    cwd: '/tmp', env: { A: 'b' },
  });
  assert.deepEqual([stdout, stderr], ['out\n/tmp\nb\n', 'err\n']);
  const echoed = await shared.execFileHTTP('cat', [], { input: 'typed' });
  assert.equal(echoed.stdout, 'typed');
  await assert.rejects(shared.execFileHTTP('sh', ['-c', 'exit 9']), { exitCode: 9 });
  await assert.rejects(shared.execFileHTTP('no-such-command-anywhere'), { exitCode: 127 });
});

// The SDK takes each piece that its HTTP client hands out for one frame. That client reads 64 KiB at
// a time, so beyond that no server can keep it from cutting a frame in two when it falls behind;
// see docs/differences.md. Up to there our frames must stay whole.
test('execFileHTTP keeps the frames of output of several frames apart', async () => {
  const { stdout } = await shared.execFileHTTP('head', ['-c', '50000', '/dev/zero'], { encoding: 'buffer' });
  assert.equal(stdout.length, 50_000);
  assert.ok(stdout.every((byte) => byte === 0));
});

test('control mode falls back to direct sockets', async () => {
  const control = new SpritesClient(client.token, { baseURL: client.baseURL, controlMode: true });
  const { stdout } = await control.sprite(shared.name).execFile('echo', ['hi']);
  assert.equal(stdout, 'hi\n');
});

test('commands run side by side', async () => {
  const numbers = Array.from({ length: 20 }, (_, i) => i);
  const outputs = await Promise.all(numbers.map((i) => shared.execFile('echo', [`${i}`])));
  assert.deepEqual(outputs.map((o) => o.stdout), numbers.map((i) => `${i}\n`));
});

test('a daemon does not keep a command', async () => {
  const { stdout } = await shared.execFile('sh', ['-c', 'sleep 300 & echo $!']);
  await shared.execFile('kill', [stdout.trim()]);
});
