import * as fs from 'node:fs';
import * as path from 'node:path';
import { inflateRawSync } from 'node:zlib';
import type { FunctionName } from './contract';

export type Architecture = 'x86_64' | 'arm64';

/** The zip of a function is missing or cannot run: told with the file's name and the remedy. */
export class UnfitZip extends Error {}

/**
 * Path of `<folder>/<name>.zip`, once it is known to hold a `bootstrap` for this architecture. A program for the other
 * one deploys without complaint and then fails at its first invocation, which here would be the first failover.
 */
export function functionZip(folder: string, name: FunctionName, architecture: Architecture): string {
  const zip = path.resolve(folder, `${name}.zip`);
  if (!fs.existsSync(zip)) {
    throw new UnfitZip(
      `${zip} is missing: build the functions into that folder first (make build), ` +
        'or name another folder with -c assets=DIR or LEASEHOLD_ASSETS=DIR',
    );
  }
  const bootstrap = fileInZip(fs.readFileSync(zip), 'bootstrap');
  if (!bootstrap) throw new UnfitZip(`${zip} holds no file "bootstrap" at its top: it is no function's zip`);
  const machine = machineOf(bootstrap);
  if (machine !== undefined && machine !== architecture) {
    throw new UnfitZip(
      `${zip} was built for ${machine}, the functions are to run on ${architecture}: build it for ${architecture}, ` +
        `or set functions.architecture = "${machine}" in the configuration`,
    );
  }
  return zip;
}

/** The machine that an ELF program is for; undefined for what is no ELF program, such as a script. */
function machineOf(program: Buffer): string | undefined {
  if (program.length < 20 || program.readUInt32BE(0) !== 0x7f454c46) return undefined;
  const machine = program.readUInt16LE(18);
  return { 0x3e: 'x86_64', 0xb7: 'arm64' }[machine] ?? `ELF machine 0x${machine.toString(16)}`;
}

/** One file of a zip archive (PKWARE's APPNOTE: end record, central directory, local header), without ZIP64. */
function fileInZip(zip: Buffer, wanted: string): Buffer | undefined {
  const end = zip.lastIndexOf('PK\x05\x06', undefined, 'latin1');
  if (end < 0) return undefined;
  let entry = zip.readUInt32LE(end + 16);
  for (let left = zip.readUInt16LE(end + 10); left > 0; left -= 1) {
    const method = zip.readUInt16LE(entry + 10);
    const packedBytes = zip.readUInt32LE(entry + 20);
    const [nameBytes, extraBytes, commentBytes] = [28, 30, 32].map((at) => zip.readUInt16LE(entry + at)) as [number, number, number];
    const local = zip.readUInt32LE(entry + 42);
    if (zip.toString('utf8', entry + 46, entry + 46 + nameBytes) === wanted) {
      const start = local + 30 + zip.readUInt16LE(local + 26) + zip.readUInt16LE(local + 28);
      const packed = zip.subarray(start, start + packedBytes);
      return method === 0 ? packed : inflateRawSync(packed);
    }
    entry += 46 + nameBytes + extraBytes + commentBytes;
  }
  return undefined;
}
