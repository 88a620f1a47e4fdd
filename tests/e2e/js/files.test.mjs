import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FilesystemError, home, newName, shared } from './harness.mjs';

async function folder(t) {
  const path = `${home}/${newName()}`;
  await shared.execFile('mkdir', [path]);
  t.after(() => shared.execFile('rm', ['-rf', path]));
  return shared.filesystem(path);
}

test('files are written and read back', async (t) => {
  const fs = await folder(t);
  await fs.writeFile('a/b/note.txt', 'grüße\n');
  assert.equal(await fs.readFile('a/b/note.txt', 'utf8'), 'grüße\n');
  const data = Buffer.from(Array.from({ length: 100_000 }, (_, i) => i & 255));
  await fs.writeFile('blob', data, { mode: 0o600 });
  assert.deepEqual(await fs.readFile('blob'), data);
  await fs.appendFile('note', 'one');
  await fs.appendFile('note', ' two');
  assert.equal(await fs.readFile('note', 'utf8'), 'one two');
  await fs.writeJSON('data.json', { a: [1, 2] }, { spaces: 2 });
  assert.deepEqual(await fs.readJSON('data.json'), { a: [1, 2] });
});

test('stat and exists tell files from folders', async (t) => {
  const fs = await folder(t);
  await fs.writeFile('tool', '12345', { mode: 0o755 });
  const stat = await fs.stat('tool');
  assert.deepEqual([stat.size, stat.mode, stat.isFile(), stat.isDirectory()], [5, 0o755, true, false]);
  assert.ok(Math.abs(Date.now() - stat.mtime) < 3_600_000);
  assert.equal(await fs.exists('tool'), true);
  assert.equal(await fs.exists('nothing'), false);
});

test('folders are made, listed and removed', async (t) => {
  const fs = await folder(t);
  await fs.mkdir('one');
  await fs.mkdir('x/y/z', { recursive: true });
  await assert.rejects(fs.mkdir('no/parent'), { code: 'ENOENT' });
  await fs.writeFile('one/b', 'b');
  await fs.writeFile('one/.a', 'a');
  await shared.execFile('ln', ['-s', 'b', 'c'], { cwd: `${fs.workingDir}/one` });
  assert.deepEqual(await fs.readdir('one'), ['.a', 'b', 'c']);
  const entries = await fs.readdir('one', { withFileTypes: true });
  assert.deepEqual(entries.map((e) => [e.isFile(), e.isSymbolicLink()]), [[true, false], [true, false], [false, true]]);
  assert.deepEqual(await fs.readdir('.', { recursive: true }), ['one', '.a', 'b', 'c', 'x', 'y', 'z']);
  assert.deepEqual(await fs.readdir('one', { pattern: 'b*' }), ['b']);
  await assert.rejects(fs.rm('one'), { code: 'ENOTEMPTY' });
  await fs.rm('one', { recursive: true });
  await fs.rm('one', { force: true });
  await assert.rejects(fs.rm('one'), { code: 'ENOENT' });
});

test('files are renamed, copied and change modes', async (t) => {
  const fs = await folder(t);
  await fs.writeFile('a', 'A');
  await fs.rename('a', 'b');
  assert.equal(await fs.exists('a'), false);
  await fs.copyFile('b', 'c');
  await fs.mkdir('d');
  await fs.copyFile('b', 'd/e');
  await fs.copyFile('d', 'f', { recursive: true, preserveAttrs: true });
  assert.equal(await fs.readFile('f/e', 'utf8'), 'A');
  await assert.rejects(fs.copyFile('d', 'g'), { code: 'EISDIR' });
  await fs.chmod('c', 0o700);
  assert.equal((await fs.stat('c')).mode, 0o700);
  await fs.chmod('d', 0o755, { recursive: true });
  assert.equal((await fs.stat('d/e')).mode, 0o755);
});

test('errors have the codes of the system', async (t) => {
  const fs = await folder(t);
  await fs.writeFile('file', 'x');
  await fs.mkdir('folder');
  await assert.rejects(fs.readFile('none'), (error) => {
    assert.ok(error instanceof FilesystemError);
    assert.equal(error.code, 'ENOENT');
    assert.match(error.message, /no such file or directory/);
    return true;
  });
  await assert.rejects(fs.readFile('folder'), { code: 'EISDIR' });
  await assert.rejects(fs.readFile('file/x'), { code: 'ENOTDIR' });
  await assert.rejects(fs.readdir('file/x'), { code: 'ENOTDIR' });
});

test('chown takes names and numbers', { skip: process.env.E2E_REAL !== '1' }, async (t) => {
  const fs = await folder(t);
  await fs.writeFile('a', 'A');
  await fs.chown('a', { uid: 'root', gid: 0, asRoot: true });
  const owner = await shared.execFile('stat', ['-c', '%u:%g', `${fs.workingDir}/a`]);
  assert.equal(owner.stdout, '0:0\n');
  await fs.chown('.', { uid: 1001, gid: 'sprite', recursive: true, asRoot: true });
  assert.equal((await shared.execFile('stat', ['-c', '%U', `${fs.workingDir}/a`])).stdout, 'sprite\n');
});
