// Storage for oidc-provider in memory, without the size limit of its own (which
// forgets grants beyond a thousand).
const models = new Map(); // model name -> Map of id -> payload
const byGrant = new Map(); // grant id -> list of [model's Map, id]

export class MapAdapter {
  constructor(name) {
    if (!models.has(name)) models.set(name, new Map());
    this.rows = models.get(name);
  }

  async upsert(id, payload) {
    this.rows.set(id, payload);
    if (payload.grantId) {
      if (!byGrant.has(payload.grantId)) byGrant.set(payload.grantId, []);
      byGrant.get(payload.grantId).push([this.rows, id]);
    }
  }

  async find(id) {
    return this.rows.get(id);
  }

  async findByUid(uid) {
    return [...this.rows.values()].find((row) => row.uid === uid);
  }

  async findByUserCode(userCode) {
    return [...this.rows.values()].find((row) => row.userCode === userCode);
  }

  async consume(id) {
    this.rows.get(id).consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    this.rows.delete(id);
  }

  async revokeByGrantId(grantId) {
    for (const [rows, id] of byGrant.get(grantId) ?? []) rows.delete(id);
    byGrant.delete(grantId);
  }
}
