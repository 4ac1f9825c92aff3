/**
 * Reading a TOML table field by field, so that a file with five mistakes is told about all five at once. Every
 * complaint names the key as it stands in the file, the value found there and what is allowed instead.
 */

/** All that is wrong with one file. */
export class ConfigError extends Error {
  constructor(
    readonly file: string,
    readonly problems: readonly string[],
  ) {
    const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`;
    super([`${file}: ${count}; nothing was changed`, ...problems.map((p) => `  ${p}`)].join('\n'));
    this.name = 'ConfigError';
  }
}

/** A rule for text: what it must look like, and how to say so. */
export interface TextRule {
  readonly pattern: RegExp;
  readonly allowed: string;
}

/** One table of the file. Keys that nobody asked for by the time of `finish` are unknown, and refused. */
export class Fields {
  private readonly asked = new Set<string>();

  constructor(
    private readonly entries: Readonly<Record<string, unknown>>,
    private readonly path: string,
    private readonly problems: string[],
  ) {}

  /** Text that matches `rule`. An absent or bad value is reported and read as `''`, so that reading can go on. */
  text(key: string, rule: TextRule): string {
    const found = this.optionalText(key, rule);
    if (!this.has(key)) this.missing(key, rule.allowed);
    return found ?? '';
  }

  optionalText(key: string, rule: TextRule): string | undefined {
    const value = this.take(key);
    if (value === undefined) return undefined;
    if (typeof value === 'string' && rule.pattern.test(value)) return value;
    this.bad(key, value, rule.allowed);
    return undefined;
  }

  /** A list of at least `least` different texts; those that break the rule are reported and left out. */
  texts(key: string, rule: TextRule, least: 0 | 1): string[] {
    const value = this.take(key);
    if (value === undefined && least > 0) this.missing(key, `a list; each entry: ${rule.allowed}`);
    if (value === undefined) return [];
    if (!Array.isArray(value) || value.length < least) {
      this.bad(key, value, `a list${least > 0 ? ' of at least one' : ''}; each entry: ${rule.allowed}`);
      return [];
    }
    const good: string[] = [];
    value.forEach((entry: unknown, index) => {
      if (typeof entry !== 'string' || !rule.pattern.test(entry)) this.bad(`${key}[${index}]`, entry, rule.allowed);
      else if (good.includes(entry)) this.bad(`${key}[${index}]`, entry, 'each entry once');
      else good.push(entry);
    });
    return good;
  }

  wholeNumber(key: string, least: number, most: number): number | undefined {
    const value = this.take(key);
    if (value === undefined) return undefined;
    if (Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most) return value as number;
    this.bad(key, value, `a whole number from ${least} to ${most}`);
    return undefined;
  }

  /** A list of different whole numbers; those that break the rule are reported and left out. */
  wholeNumbers(key: string, least: number, most: number): number[] {
    const value = this.take(key);
    if (value === undefined) return [];
    const allowed = `a whole number from ${least} to ${most}`;
    if (!Array.isArray(value)) {
      this.bad(key, value, `a list; each entry: ${allowed}`);
      return [];
    }
    const good: number[] = [];
    value.forEach((entry: unknown, index) => {
      if (!Number.isSafeInteger(entry) || (entry as number) < least || (entry as number) > most) this.bad(`${key}[${index}]`, entry, allowed);
      else if (good.includes(entry as number)) this.bad(`${key}[${index}]`, entry, 'each entry once');
      else good.push(entry as number);
    });
    return good;
  }

  oneOf<T extends string | number>(key: string, allowed: readonly T[]): T | undefined {
    const value = this.take(key);
    if (value === undefined) return undefined;
    if (allowed.includes(value as T)) return value as T;
    this.bad(key, value, `one of ${allowed.map(show).join(', ')}`);
    return undefined;
  }

  flag(key: string): boolean | undefined {
    const value = this.take(key);
    if (value === undefined) return undefined;
    if (typeof value === 'boolean') return value;
    this.bad(key, value, 'true or false');
    return undefined;
  }

  /** The sub-table `[key]`; an absent one reads as empty. */
  table(key: string): Fields {
    const value = this.take(key);
    if (value === undefined || isTable(value)) return new Fields(value ?? {}, this.at(key), this.problems);
    this.bad(key, value, `a table: [${this.at(key)}]`);
    return new Fields({}, this.at(key), this.problems);
  }

  /** The tables `[[key]]`. Each is called by its name where it has one, else by its place in the file. */
  tables(key: string): Fields[] {
    const value = this.take(key);
    if (value === undefined) return [];
    if (!Array.isArray(value) || !value.every(isTable)) {
      this.bad(key, value, `tables, each begun by [[${this.at(key)}]]`);
      return [];
    }
    const places = new Map<string, number>();
    for (const entry of value) places.set(String(entry['name']), (places.get(String(entry['name'])) ?? 0) + 1);
    return value.map((entry, index) => {
      const name = entry['name'];
      const telling = typeof name === 'string' && name !== '' && places.get(name) === 1;
      return new Fields(entry, `${this.at(key)}[${telling ? name : index}]`, this.problems);
    });
  }

  has(key: string): boolean {
    return this.entries[key] !== undefined;
  }

  /** Reports the value of `key` as wrong. */
  bad(key: string, value: unknown, allowed: string): void {
    this.complain(key, `= ${show(value)}: ${allowed}`);
  }

  /** Reports something else about `key`. */
  complain(key: string, what: string): void {
    this.problems.push(`${this.at(key)} ${what}`);
  }

  private missing(key: string, allowed: string): void {
    this.complain(key, `is missing: ${allowed}`);
  }

  /** Reports every key that nobody asked for. */
  finish(): void {
    for (const key of Object.keys(this.entries)) {
      if (!this.asked.has(key)) {
        this.bad(key, this.entries[key], `unknown key; known here: ${[...this.asked].sort().join(', ')}`);
      }
    }
  }

  private take(key: string): unknown {
    this.asked.add(key);
    return this.entries[key];
  }

  private at(key: string): string {
    return this.path === '' ? key : `${this.path}.${key}`;
  }
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}
