/**
 * The app: reads one cluster.toml and makes one stack of it.
 *
 *   cdk deploy -c config=cluster.toml [-c assets=DIR] [-c architecture=arm64]
 */
import * as path from 'node:path';
import { App } from 'aws-cdk-lib';
import { ConfigError, readConfig } from '../lib/config';
import { UnfitZip } from '../lib/function-zip';
import { LeaseholdStack } from '../lib/leasehold-stack';

/** Something the person at the keyboard can put right: told without a stack trace. */
class UsageError extends Error {}

/** A setting by context (`-c name=value`) or environment; relative paths are meant from where the command was typed. */
function setting(app: App, name: string, variable: string): string | undefined {
  const given: unknown = app.node.tryGetContext(name) ?? process.env[variable];
  return given === undefined || given === '' ? undefined : String(given);
}

/** npm and npx run commands in the package's folder; INIT_CWD is where the person stood. */
function fromWhereTyped(file: string): string {
  return path.resolve(process.env['INIT_CWD'] ?? process.cwd(), file);
}

function main(): void {
  // CDK's own check of the finished template costs seconds in each command. `npm run check` runs it, strictly, on a
  // sample; CDK_VALIDATION=true runs it here.
  const app = new App({
    builtinCloudFormationValidation: process.env['CDK_VALIDATION'] === 'true',
    // Synthesized by hand below: by itself the app would write half a stack after an error, too.
    autoSynth: false,
  });
  const file = setting(app, 'config', 'LEASEHOLD_CONFIG');
  if (file === undefined) {
    throw new UsageError('which cluster? name its file: -c config=cluster.toml, or LEASEHOLD_CONFIG=cluster.toml');
  }
  const settings = readConfig(fromWhereTyped(file));

  const assets = setting(app, 'assets', 'LEASEHOLD_ASSETS');
  const architecture = setting(app, 'architecture', 'LEASEHOLD_ARCHITECTURE') ?? settings.functions.architecture ?? 'x86_64';
  if (architecture !== 'x86_64' && architecture !== 'arm64') {
    throw new UsageError(`architecture = ${JSON.stringify(architecture)}: x86_64 or arm64`);
  }

  new LeaseholdStack(app, settings.deployment, {
    settings,
    assets: assets === undefined ? path.join(__dirname, '..', '..', 'dist') : fromWhereTyped(assets),
    architecture,
    env: { account: settings.account, region: settings.region },
  });
  app.synth();
}

try {
  main();
} catch (error) {
  if (!(error instanceof UsageError || error instanceof ConfigError || error instanceof UnfitZip)) throw error;
  console.error(`leasehold: ${error.message}`);
  process.exitCode = 1;
}
