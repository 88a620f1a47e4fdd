import assert from 'node:assert/strict';
import { test } from 'node:test';
import { collect, eventually, exited, shared } from './harness.mjs';

const info = (output) =>
  eventually('session_info', () => output.messages.find((message) => message.type === 'session_info'));

test('a session outlives its client and can be attached to', async () => {
  const command = shared.createSession('sh', ['-c', 'echo ready; while read line; do echo "got $line"; done']);
  const output = collect(command);
  const { session_id: id, tty } = await info(output);
  assert.equal(tty, true);
  await output.until('ready');
  command.wsCmd.close();
  const sessions = await shared.listSessions();
  const listed = sessions.find((session) => session.id === id);
  assert.ok(listed, `${id} is listed`);
  assert.equal(listed.tty, true);
  assert.match(listed.command, /read line/);
  assert.ok(listed.created instanceof Date && listed.workdir);

  const attached = shared.attachSession(id);
  const replay = collect(attached);
  await replay.until('ready');
  attached.stdin.write('words\r');
  await replay.until('got words');
  const exit = exited(attached);
  attached.stdin.write('\x04');
  assert.equal(await exit, 0);
  assert.ok(!(await shared.listSessions()).some((session) => session.id === id));
});

test('a session without a terminal can be attached to', async () => {
  const command = shared.spawn('sh', ['-c', 'echo early; read line; echo late $line'], { detachable: true });
  const output = collect(command);
  await output.until('early');
  const sessions = await shared.listSessions();
  const { id } = sessions.find((session) => session.command.includes('echo early'));
  command.wsCmd.close();
  const attached = shared.attachSession(id);
  const replay = collect(attached);
  const exit = exited(attached);
  await replay.until('early');
  attached.stdin.write('x\n');
  assert.equal(await exit, 0);
  assert.equal(replay.stdout, 'early\nlate x\n');
});

test('attaching to nothing fails', async () => {
  const attached = shared.attachSession('99999999');
  await assert.rejects(exited(attached));
});

test('killSession streams what happens', async () => {
  const command = shared.createSession('sleep', ['300']);
  const { session_id: id } = await info(collect(command));
  const events = [];
  for await (const event of await shared.killSession(id, 'SIGTERM', '5s')) events.push(event);
  assert.deepEqual(events.map((event) => event.type), ['signal', 'exited', 'complete']);
  assert.equal(events[0].signal, 'SIGTERM');
  assert.equal(events.at(-1).exitCode, 143);
  await assert.rejects(shared.killSession(id), (error) => [404, 410].includes(error.statusCode));
});
