import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { test } from 'node:test';
import { functionZip, UnfitZip } from '../lib/function-zip';
import { tinyZips, zipOf } from './sample';

/** The beginning of an ELF program for `machine`, as long as a real one needs. */
function elf(machine: number): Buffer {
  const header = Buffer.alloc(64);
  header.write('\x7fELF', 'latin1');
  header.writeUInt16LE(machine, 18);
  return header;
}

function unfit(folder: string, architecture: 'x86_64' | 'arm64', message: RegExp): void {
  assert.throws(() => functionZip(folder, 'failover', architecture), (error) => error instanceof UnfitZip && message.test(error.message));
}

test('a program for the right machine is taken, one for the other is refused with both names', () => {
  const x86 = tinyZips(() => elf(0x3e));
  const arm = tinyZips(() => elf(0xb7));
  assert.equal(functionZip(x86, 'failover', 'x86_64'), path.join(x86, 'failover.zip'));
  assert.equal(functionZip(arm, 'watch', 'arm64'), path.join(arm, 'watch.zip'));
  unfit(x86, 'arm64', /failover.zip was built for x86_64, the functions are to run on arm64: .*"x86_64"/);
  unfit(arm, 'x86_64', /built for arm64, the functions are to run on x86_64/);
});

test('a script is nobody\'s machine code and is taken', () => {
  const scripts = tinyZips();
  assert.equal(functionZip(scripts, 'configure', 'arm64'), path.join(scripts, 'configure.zip'));
});

test('a zip without bootstrap, or no zip at all, is refused', () => {
  const folder = tinyZips();
  fs.writeFileSync(path.join(folder, 'failover.zip'), zipOf('failover', elf(0x3e)));
  unfit(folder, 'x86_64', /failover.zip holds no file "bootstrap"/);
  fs.writeFileSync(path.join(folder, 'failover.zip'), 'not a zip');
  unfit(folder, 'x86_64', /holds no file "bootstrap"/);
  unfit(path.join(folder, 'nowhere'), 'x86_64', /failover.zip is missing/);
});

test('the tests\' own zips are ones that unzip accepts', { skip: spawnSync('unzip', ['-v']).error ? 'no unzip here' : false }, () => {
  const { status, stdout } = spawnSync('unzip', ['-t', path.join(tinyZips(), 'watch.zip')], { encoding: 'utf8' });
  assert.equal(status, 0, stdout);
});
